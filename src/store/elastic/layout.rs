//! What of a data set is there, what is missing, and whether it belongs together.
//!
//! The indices of a set carry its identity. Names and addresses are unique because they are all there: so one that is
//! missing beside others stops whoever meets it, and an empty one in its place is made on demand only. The state is made
//! first and says until the last one is there that the set is unfinished; then what is missing was never used.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::client::{Client, Deadline};
use super::index::{Index, KINDS, Kind, Meta, Names, own_alias};
use super::{OpenError, SCHEMA, STEP};
use crate::store::OPERATION_MAX;

/// The indices under a prefix.
pub(super) struct Layout {
    names: Names,
    /// Those that their aliases name.
    there: BTreeMap<Kind, Index>,
    /// Those of ours that they do not, in the order of their numbers.
    spare: BTreeMap<Kind, Vec<Index>>,
}

/// How far a set is made.
pub(super) enum Standing {
    /// There is none, or its making was not finished.
    ToBeMade,
    /// It was made.
    Made,
}

impl Layout {
    /// Errors: `Foreign`, `NewerSchema`, `AliasOfSeveral`.
    pub(super) async fn read(client: &Client, names: &Names) -> Result<Self, OpenError> {
        let paths = KINDS.map(|kind| format!("{0},{0}-*", names.alias(kind)));
        let indices = client.describe(&paths.join(","), Deadline::within(STEP)).await?;
        let mut layout = Self { names: names.clone(), there: BTreeMap::new(), spare: BTreeMap::new() };
        for kind in KINDS {
            let alias = names.alias(kind);
            let is_named = |name: &str| name == alias || indices[name]["aliases"].get(alias).is_some();
            let named: Vec<&String> = indices.keys().filter(|name| is_named(name)).collect();
            if named.len() > 1 {
                return Err(OpenError::AliasOfSeveral { alias: alias.to_owned(), indices: list(&named) });
            }
            if let Some(name) = named.first() {
                layout.there.insert(kind, Index::read((*name).clone(), kind, &indices[*name])?);
            }
            let is_ours = |name: &str| {
                let number = name.strip_prefix(alias).and_then(|rest| rest.strip_prefix('-'));
                number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) && !is_named(name)
            };
            // Whatever else is under such a name is in nobody's way until a new index is to be made there.
            let spare = indices.iter().filter(|(name, _)| is_ours(name));
            let mut spare: Vec<Index> =
                spare.filter_map(|(name, body)| Index::read(name.clone(), kind, body).ok()).collect();
            spare.sort_by_key(|index| Index::number(&index.name));
            layout.spare.insert(kind, spare);
        }
        Ok(layout)
    }

    /// The index that its alias names.
    pub(super) fn there(&self, kind: Kind) -> Option<&Index> {
        self.there.get(&kind)
    }

    /// The indices of a kind that no alias names, in the order of their numbers.
    pub(super) fn spare(&self, kind: Kind) -> &[Index] {
        self.spare.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// How far the set is made. Errors: `Closed`, `OtherDataSet`.
    pub(super) fn standing(&self) -> Result<Standing, OpenError> {
        if let Some(closed) = self.there.values().find(|index| index.closed) {
            return Err(OpenError::Closed(closed.name.clone()));
        }
        self.data_set()?;
        let is_begun = self.there(Kind::State).is_some_and(|state| state.meta.unfinished);
        // Or not even the state has got its alias.
        let is_new = self.there.is_empty() && KINDS.iter().all(|kind| self.whole(*kind).is_empty());
        Ok(if is_new || is_begun { Standing::ToBeMade } else { Standing::Made })
    }

    /// The identity of the set: that of the users before that of the others. Errors: `OtherDataSet`.
    pub(super) fn data_set(&self) -> Result<Option<&str>, OpenError> {
        let of_spare = || self.spare.values().flatten().filter_map(|index| index.meta.data_set.as_deref());
        let named = |index: &'_ Index| index.meta.data_set.is_some();
        let first = self.there(Kind::Users).into_iter().chain(self.there.values()).find(|index| named(index));
        let Some(first) = first else { return Ok(of_spare().next()) };
        let other = self.there.values().find(|index| named(index) && index.meta.data_set != first.meta.data_set);
        match other {
            None => Ok(first.meta.data_set.as_deref()),
            Some(other) => Err(OpenError::OtherDataSet(other.name.clone())),
        }
    }

    /// The kinds that are missing altogether: not even without an alias is there one that is whole.
    pub(super) fn missing(&self) -> Vec<Kind> {
        KINDS.into_iter().filter(|kind| self.there(*kind).is_none() && self.whole(*kind).is_empty()).collect()
    }

    /// The index that an alias named which is missing now; `None` where it is not. Errors: `AliasUncertain`.
    ///
    /// A new index counts as whole only when the former one takes no writes any more: of two, it has everything.
    pub(super) fn unnamed(&self, kind: Kind) -> Result<Option<&Index>, OpenError> {
        let whole = self.whole(kind);
        match (self.there(kind), whole.as_slice()) {
            (Some(_), _) | (None, []) => Ok(None),
            (None, [index]) => Ok(Some(*index)),
            (None, [.., last]) if last.meta.data_set.is_some() => Ok(Some(*last)),
            (None, several) => {
                let names: Vec<&String> = several.iter().map(|index| &index.name).collect();
                Err(OpenError::AliasUncertain { alias: self.names.alias(kind).to_owned(), indices: list(&names) })
            }
        }
    }

    fn whole(&self, kind: Kind) -> Vec<&Index> {
        let data_set = self.data_set().ok().flatten();
        let is_of_it =
            |index: &Index| data_set.is_none() || index.meta.data_set.as_deref().is_none_or(|of| Some(of) == data_set);
        self.spare(kind).iter().filter(|index| !index.meta.unfinished && is_of_it(index)).collect()
    }

    /// The error of a kind that is missing.
    pub(super) fn lost(&self, kind: Kind) -> OpenError {
        let remedy = match kind {
            Kind::Users => "restore it from a snapshot; or delete all the others to begin anew, without any user",
            Kind::Emails => "restore it, or have it made anew from the users by `doorward migrate --rebuild emails`",
            Kind::Sessions => "everybody logs in again after `doorward migrate --rebuild sessions`",
            Kind::State => "restore it, or have it made anew by `doorward migrate --rebuild state`",
        };
        OpenError::Missing { alias: self.names.alias(kind).to_owned(), remedy }
    }

    /// The users index of a set that is whole and that this program can use.
    pub(super) fn usable(mut self) -> Result<Index, OpenError> {
        if let Some(kind) = self.missing().first() {
            return Err(self.lost(*kind));
        }
        for kind in KINDS {
            if let Some(index) = self.unnamed(kind)? {
                let alias = self.names.alias(kind).to_owned();
                return Err(OpenError::AliasMissing { alias, index: index.name.clone() });
            }
        }
        if let Some(index) = self.there.values().find(|index| index.meta.schema < SCHEMA) {
            return Err(OpenError::OlderSchema { found: index.meta.schema });
        }
        if let Some(index) = self.there.values().find(|index| !is_identified(index)) {
            return Err(OpenError::Unidentified(index.name.clone()));
        }
        let users = self.there.remove(&Kind::Users).ok_or_else(|| self.lost(Kind::Users))?;
        for index in self.there.into_values() {
            index.check_shape()?;
        }
        users.check_shape()
    }
}

/// Whether an index has what this version gives it: the identity of its data set, and its own alias.
pub(super) fn is_identified(index: &Index) -> bool {
    index.meta.data_set.is_some() && index.aliases.contains(&own_alias(&index.name))
}

/// A new identity of a data set.
pub(super) fn new_data_set() -> String {
    Uuid::new_v4().simple().to_string()
}

fn list(names: &[&String]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The users index, after all indices are there: where there are none yet, they are made.
pub(super) async fn open(client: &Client, names: &Names, shards: usize) -> Result<Index, OpenError> {
    let mut layout = Layout::read(client, names).await?;
    if let Standing::ToBeMade = layout.standing()? {
        make(client, names, &layout, shards).await?;
        layout = Layout::read(client, names).await?;
        layout.standing()?;
    }
    let users = layout.usable()?;
    // An index that another gateway is making is there before its shards are.
    client.checkpoint(&names.users, Deadline::within(OPERATION_MAX)).await?;
    Ok(users)
}

/// Makes what is missing of a new set, also where another gateway does so now, or has ended half way.
pub(super) async fn make(client: &Client, names: &Names, found: &Layout, shards: usize) -> Result<(), OpenError> {
    let deadline = Deadline::within(STEP);
    let state = Meta { unfinished: true, ..Meta::new(Kind::State, &new_data_set()) };
    let state = match found.there(Kind::State) {
        Some(state) => state.clone(),
        None => {
            let name = Index::name(&names.state, 1);
            let state = client.create_index(&name, &state, 1, deadline).await?;
            client.name_index(&name, &names.state, deadline).await?;
            state
        }
    };
    // Of several gateways that begin at once, that of the quickest.
    let data_set = state.meta.data_set.clone().ok_or_else(|| OpenError::Unidentified(state.name.clone()))?;
    for kind in KINDS.into_iter().filter(|kind| *kind != Kind::State && found.there(*kind).is_none()) {
        let (alias, meta) = (names.alias(kind), Meta::new(kind, &data_set));
        let name = Index::name(alias, 1);
        if client.create_index(&name, &meta, shards, deadline).await?.meta != meta {
            return Err(OpenError::InTheWay(name));
        }
        client.name_index(&name, alias, deadline).await?;
    }
    client.describe_index(&state.name, &state.meta.finished(), deadline).await
}
