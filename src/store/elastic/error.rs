//! Why a cluster cannot be used, or a data set in it: one line, without secrets.

use super::SCHEMA;
use super::client::{Failure, Kind};
use crate::store::StoreError;

/// The line that ends a start or a migration.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting.
    #[error("{0}")]
    Setting(String),
    /// It does not answer, or cannot do what it must. Passes, perhaps.
    #[error("ES_URL: {0}")]
    Unavailable(String),
    /// Our credentials are refused.
    #[error("ES_URL: {0}; see DOORWARD_ES_API_KEY, or DOORWARD_ES_USERNAME and DOORWARD_ES_PASSWORD")]
    Unauthorised(String),
    /// It is not Elasticsearch, or not by this protocol.
    #[error("ES_URL: {0}")]
    NotElasticsearch(String),
    /// It refuses what is asked of it, with this status and error.
    #[error("ES_URL: Elasticsearch answered {0} {1}")]
    Refused(u16, String),
    /// Something else is in the place of our indices.
    #[error("{0}; set another DOORWARD_INDEX_PREFIX")]
    Foreign(String),
    /// An index is where a new one should be made.
    #[error("the index {0} is in the way of a new one: delete it if it is left from a migration that was given up")]
    InTheWay(String),
    /// Writes are held, and what is left to do failed.
    #[error("{0}; writes are held until `doorward migrate` is run again and finishes")]
    Unfinished(Box<OpenError>),
    /// Some of our indices are there, but not all.
    #[error("the index {alias} is missing, though others of its data set are there: {remedy}")]
    Missing {
        /// Its alias.
        alias: String,
        /// What brings it back.
        remedy: &'static str,
    },
    /// An index is there without its alias.
    #[error("the alias {alias} is missing, though the index {index} is there: `doorward migrate` puts it back")]
    AliasMissing {
        /// The alias.
        alias: String,
        /// What it named.
        index: String,
    },
    /// The same, and what the alias named is not known.
    #[error("the alias {alias} is missing, and it may have named any of {indices}: put it on the right one")]
    AliasUncertain {
        /// The alias.
        alias: String,
        /// The indices, by commas.
        indices: String,
    },
    /// An alias that must name one index names more.
    #[error("the alias {alias} names several indices, {indices}: take it off all but the right one")]
    AliasOfSeveral {
        /// The alias.
        alias: String,
        /// The indices, by commas.
        indices: String,
    },
    /// Two of our indices do not belong together.
    #[error("the index {0} is of another data set than the others: restore all of them from one snapshot")]
    OtherDataSet(String),
    /// An index of a version that gave indices no identity.
    #[error("the index {0} has no identity of its data set, being of an earlier version: run `doorward migrate`")]
    Unidentified(String),
    /// An index is closed.
    #[error("the index {0} is closed: open it")]
    Closed(String),
    /// An index is not as this program makes it.
    #[error(
        "the index {index} has {fault}, which Doorward has not set: see the cluster's index templates, and who changes \
         its settings"
    )]
    Misshapen {
        /// Its name.
        index: String,
        /// What it has.
        fault: String,
    },
    /// An index that is to be made anew is there.
    #[error("the index {0} is there: delete it first if it is to be made anew")]
    StillThere(String),
    /// A newer program has written the indices.
    #[error(
        "the indices have schema version {found}, but this program knows only up to {SCHEMA}: use the newer program"
    )]
    NewerSchema {
        /// Theirs.
        found: u32,
    },
    /// An older program has written the indices.
    #[error("the indices have schema version {found}, and this program needs {SCHEMA}: run `doorward migrate`")]
    OlderSchema {
        /// Theirs.
        found: u32,
    },
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            Kind::Unauthorised => Self::Unauthorised(failure.text),
            Kind::Foreign | Kind::Tls => Self::NotElasticsearch(failure.text),
            _ => Self::Unavailable(failure.text),
        }
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
