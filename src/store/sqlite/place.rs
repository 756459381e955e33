//! Whether the files that are open are still those that their paths name.
//!
//! A file that was removed, moved or replaced takes writes as before, which nobody finds again. So does the log of a
//! database, or the index of that log, while another process makes a new one at its place.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// The database with its companions, each with the device and inode that it had when it was opened.
pub(super) struct Place(Vec<(PathBuf, (u64, u64))>);

impl Place {
    /// Of a database that is open.
    pub(super) fn of(database: &Path) -> io::Result<Self> {
        let database = std::path::absolute(database)?;
        let files = ["", "-wal", "-shm"].map(|companion| {
            let mut path = database.clone().into_os_string();
            path.push(companion);
            let path = PathBuf::from(path);
            identity(&path).map(|identity| (path, identity))
        });
        files.into_iter().collect::<Result<_, _>>().map(Self)
    }

    /// Errors: `Unavailable`, with the path of what is not there any more.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let Some((path, _)) = self.0.iter().find(|(path, opened)| identity(path).ok() != Some(*opened)) else {
            return Ok(());
        };
        let path = path.display();
        Err(StoreError::Unavailable(format!(
            "{path} was removed, moved or replaced while it was in use; what is written now would be lost. Put the very file \
             back, or stop this gateway and start it on what is to be served"
        )))
    }
}

/// By `stat`: to open a file that SQLite has open, and close it, would drop SQLite's locks on it.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|found| (found.dev(), found.ino()))
}
