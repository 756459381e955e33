//! Lists: each page is a range of an index, so the thousandth costs what the first one costs.

use std::sync::Arc;

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, params_from_iter};
use serde_json::Value;

use super::conditions::Sql;
use super::users;
use crate::store::{ListQuery, Page, PageKey, SortField, StoreError};
use crate::users::User;
use crate::users::filter::Filter;
use crate::users::fold::fold;

/// One page.
pub(super) fn list(connection: &Connection, query: &ListQuery) -> Result<Page, StoreError> {
    let sql = page_sql(query)?;
    let mut statement = connection.prepare_cached(&sql.text)?;
    let mut rows = statement.query(params_from_iter(sql.params))?;
    let mut found: Vec<Arc<User>> = Vec::with_capacity(query.limit.min(1000));
    while let Some(row) = rows.next()? {
        if found.len() == query.limit {
            // The row beyond the limit shows that there is a next page.
            let next = found.last().map(|user| page_key(query.sort.field, user));
            return Ok(Page { users: found, next });
        }
        found.push(Arc::new(users::read(row)?));
    }
    Ok(Page { users: found, next: None })
}

/// How many users match.
pub(super) fn count(connection: &Connection, filter: Option<&Filter>) -> Result<u64, StoreError> {
    let mut sql = Sql::default();
    sql.push("SELECT count(*) FROM users");
    if let Some(filter) = filter {
        sql.push(" WHERE ").push_filter(filter);
    }
    Ok(connection.prepare_cached(&sql.text)?.query_row(params_from_iter(sql.params), |row| row.get(0))?)
}

fn page_sql(query: &ListQuery) -> Result<Sql, StoreError> {
    let mut sql = Sql::default();
    sql.push("SELECT ").push(users::COLUMNS).push(" FROM users WHERE ");
    match &query.filter {
        Some(filter) => sql.push_filter(filter),
        None => sql.push("1"),
    };
    let (behind, order) = if query.sort.descending { ("<", "DESC") } else { (">", "ASC") };
    let columns = match query.sort.field {
        SortField::Username => ["username_key"].as_slice(),
        SortField::DisplayName => &["display_fold", "username_key"],
        SortField::CreatedAt => &["created_at", "username_key"],
        SortField::UpdatedAt => &["updated_at", "username_key"],
    };
    if let Some(key) = &query.after {
        let values = check_page_key(query.sort.field, key)?;
        sql.push(" AND (").push(&columns.join(", ")).push(") ").push(behind).push(" (");
        for (at, value) in values.into_iter().enumerate() {
            sql.push(if at == 0 { "" } else { ", " }).bind(value);
        }
        sql.push(")");
    }
    for (at, column) in columns.iter().enumerate() {
        sql.push(if at == 0 { " ORDER BY " } else { ", " }).push(column).push(" ").push(order);
    }
    sql.push(" LIMIT ").bind(i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1));
    Ok(sql)
}

/// The sort value of the last user of a page, then the key of their name.
fn page_key(field: SortField, user: &User) -> PageKey {
    let value = match field {
        SortField::Username => None,
        SortField::DisplayName => Some(Value::from(fold(&user.display_name))),
        SortField::CreatedAt => Some(Value::from(user.created_at.ms())),
        SortField::UpdatedAt => Some(Value::from(user.updated_at.ms())),
    };
    PageKey(value.into_iter().chain([Value::from(user.username.key())]).collect())
}

/// The values of a key of this sort's shape.
fn check_page_key(field: SortField, key: &PageKey) -> Result<Vec<SqlValue>, StoreError> {
    let text = |value: &Value| value.as_str().map(|text| SqlValue::Text(text.to_owned()));
    let number = |value: &Value| value.as_i64().map(SqlValue::Integer);
    let values = match (field, key.0.as_slice()) {
        (SortField::Username, [name]) => vec![text(name)],
        (SortField::DisplayName, [value, name]) => vec![text(value), text(name)],
        (SortField::CreatedAt | SortField::UpdatedAt, [value, name]) => vec![number(value), text(name)],
        _ => return Err(StoreError::BadPageKey),
    };
    values.into_iter().collect::<Option<Vec<_>>>().ok_or(StoreError::BadPageKey)
}
