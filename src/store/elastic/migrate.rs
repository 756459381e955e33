//! `doorward migrate`: makes the indices, puts back aliases, makes anew what is asked for and can be derived, and moves
//! documents to indices of this program's schema.
//!
//! Whatever it does, it reads the indices once more before it tells so.

use std::time::Duration;

use super::client::{Client, Deadline};
use super::index::{Index, KINDS, Kind, Meta, Names};
use super::layout::{Layout, Standing, is_identified, make, new_data_set};
use super::moving::Move;
use super::rebuild::{Rebuild, rebuild};
use super::{ElasticConfig, OpenError, SCHEMA, STEP};

/// What became of one index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Migration {
    /// There was none; it was made.
    Created {
        /// Its name.
        index: String,
    },
    /// It is as it should be.
    UpToDate {
        /// Its name.
        index: String,
    },
    /// Its alias was missing.
    Named {
        /// Its name.
        index: String,
        /// The alias.
        alias: String,
    },
    /// It was of a version that gave indices no identity of their data set.
    Identified {
        /// Its name.
        index: String,
    },
    /// It was missing, and is there again.
    Rebuilt {
        /// Its name.
        index: String,
        /// Of how many users it has the addresses; `None` where it has begun without anything.
        users: Option<u64>,
        /// Who has an address that another user has, too: the name of the one who owns it, and the other's.
        twice: Vec<(String, String)>,
    },
    /// Its documents are in a new one.
    Moved {
        /// The former one, which stays and takes no writes.
        from: String,
        /// The new one.
        to: String,
        /// How long writes were held.
        held: Duration,
    },
}

impl Migration {
    /// The index that is there now.
    fn index(&self) -> &str {
        match self {
            Self::Created { index }
            | Self::UpToDate { index }
            | Self::Named { index, .. }
            | Self::Identified { index }
            | Self::Rebuilt { index, .. }
            | Self::Moved { to: index, .. } => index,
        }
    }
}

impl std::fmt::Display for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Created { index } => write!(f, "{index}: created"),
            Self::UpToDate { index } => write!(f, "{index}: up to date"),
            Self::Named { index, alias } => write!(f, "{index}: behind the alias {alias} again"),
            Self::Identified { index } => write!(f, "{index}: has the identity of its data set now"),
            Self::Rebuilt { index, users: None, .. } => write!(f, "{index}: made anew, empty"),
            Self::Rebuilt { index, users: Some(users), twice } => {
                write!(f, "{index}: made anew from {users} users with addresses")?;
                for (owner, other) in twice {
                    write!(
                        f,
                        "\n{owner} and {other} have the same address, which is {owner}'s now: give {other} another"
                    )?;
                }
                Ok(())
            }
            Self::Moved { from, to, held } => {
                let held = held.as_millis();
                write!(
                    f,
                    "{to}: in the place of {from} now (writes were held for {held} ms); delete {from} when you like"
                )
            }
        }
    }
}

/// Brings all indices to this program's schema, and the users to the number of shards of the settings. Of those that are
/// missing, makes those `anew` that are named.
///
/// `progress` is told a line now and then. May be interrupted at any time, and run again, also twice at once.
pub async fn migrate(
    config: &ElasticConfig,
    anew: &[Rebuild],
    progress: &(dyn Fn(String) + Sync),
) -> Result<Vec<Migration>, OpenError> {
    let client = Client::new(config).map_err(OpenError::Setting)?;
    let names = Names::new(&config.prefix);
    let mut done = Vec::new();
    let mut layout = Layout::read(&client, &names).await?;
    let anew: Vec<Kind> = anew.iter().map(|of| of.kind()).collect();
    if let Standing::ToBeMade = layout.standing()? {
        let is_new = |kind: &Kind| layout.there(*kind).is_none();
        let new: Vec<Kind> = KINDS.into_iter().filter(is_new).collect();
        make(&client, &names, &layout, config.shards).await?;
        layout = Layout::read(&client, &names).await?;
        layout.standing()?;
        for index in new.into_iter().filter_map(|kind| layout.there(kind)) {
            done.push((index.meta.kind, Migration::Created { index: index.name.clone() }));
        }
    }
    let missing = layout.missing();
    if let Some(kind) = missing.iter().find(|kind| !anew.contains(kind)) {
        return Err(layout.lost(*kind));
    }
    if let Some(index) = anew.iter().find_map(|kind| layout.there(*kind)) {
        return Err(OpenError::StillThere(index.name.clone()));
    }
    complete(&client, &names, &layout, &mut done).await?;
    let data_set = Layout::read(&client, &names).await?.data_set()?.map(str::to_owned);
    if let Some(data_set) = data_set {
        for kind in missing {
            done.push((kind, rebuild(&client, &names, kind, &data_set, progress).await?));
        }
    }
    let layout = Layout::read(&client, &names).await?;
    layout.standing()?;
    for kind in KINDS {
        let index = layout.there(kind).ok_or_else(|| layout.lost(kind))?.clone();
        let shards = if kind == Kind::Users { config.shards } else { 1 };
        if index.meta.schema != SCHEMA || index.shards != shards {
            let alias = names.alias(kind);
            done.push((kind, Move { client: &client, alias, from: index, shards, progress }.run().await?));
        }
    }
    told(&client, &names, done).await
}

/// Gives indices what they have lost or never had: the alias, the identity of their data set.
async fn complete(
    client: &Client,
    names: &Names,
    layout: &Layout,
    done: &mut Vec<(Kind, Migration)>,
) -> Result<(), OpenError> {
    let data_set = layout.data_set()?.map_or_else(new_data_set, str::to_owned);
    for kind in KINDS {
        let (alias, unnamed) = (names.alias(kind), layout.unnamed(kind)?);
        let Some(index) = layout.there(kind).or(unnamed) else { continue };
        let name = index.name.clone();
        if !is_identified(index) {
            let meta = Meta { data_set: Some(data_set.clone()), ..index.meta.clone() };
            client.describe_index(&name, &meta, Deadline::within(STEP)).await?;
            if index.meta.data_set.is_none() {
                done.push((kind, Migration::Identified { index: name.clone() }));
            }
        }
        if unnamed.is_some() || !is_identified(index) {
            client.name_index(&name, alias, Deadline::within(STEP)).await?;
        }
        if unnamed.is_some() {
            done.push((kind, Migration::Named { index: name, alias: alias.to_owned() }));
        }
    }
    Ok(())
}

/// What was done, in the order of the kinds, after the indices were read once more.
async fn told(client: &Client, names: &Names, done: Vec<(Kind, Migration)>) -> Result<Vec<Migration>, OpenError> {
    let layout = Layout::read(client, names).await?;
    let mut told = Vec::new();
    for kind in KINDS {
        let index: &Index = layout.there(kind).ok_or_else(|| layout.lost(kind))?;
        let of_kind: Vec<Migration> =
            done.iter().filter(|(of, _)| *of == kind).map(|(_, migration)| migration.clone()).collect();
        if let Some(last) = of_kind.last()
            && last.index() != index.name
        {
            let (alias, index) = (names.alias(kind), &index.name);
            return Err(OpenError::Unavailable(format!("{alias} names {index} instead of {}", last.index())));
        }
        match of_kind.is_empty() {
            true => told.push(Migration::UpToDate { index: index.name.clone() }),
            false => told.extend(of_kind),
        }
    }
    layout.usable()?;
    Ok(told)
}
