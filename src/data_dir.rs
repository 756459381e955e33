//! The data folder: its lock, its secrets, and the place of the embedded store.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::SecretString;

/// Why the folder cannot be used: one line that names it.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The folder, or a file in it, cannot be made, read or written.
    #[error("data folder {path}: {cause}")]
    Unusable {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Another gateway serves it.
    #[error("data folder {0}: another doorward is serving it; stop that one or set DOORWARD_DATA_DIR")]
    InUse(PathBuf),
    /// A file that should hold a secret does not.
    #[error("secret file {0}: is damaged; restore it from a backup")]
    Damaged(PathBuf),
}

/// A data folder that exists.
#[derive(Debug)]
pub struct DataDir {
    /// Absolute.
    path: PathBuf,
}

/// Held by the one process that serves a folder; the system lets go of it however the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl DataDir {
    /// Opens a folder, making it (readable by its owner only) where it is missing.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        // Whoever reads a message may be in another folder.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        match builder.create(&path) {
            Ok(()) => Ok(Self { path }),
            Err(cause) => Err(DataDirError::Unusable { path, cause }),
        }
    }

    /// Makes this the only process that serves the folder.
    pub fn lock(&self) -> Result<Lock, DataDirError> {
        let path = self.path.join("doorward.lock");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|cause| DataDirError::Unusable { path: path.clone(), cause })?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(DataDirError::InUse(self.path.clone())),
            Err(std::fs::TryLockError::Error(cause)) => Err(DataDirError::Unusable { path, cause }),
        }
    }

    /// The file of the embedded store.
    pub fn database(&self) -> PathBuf {
        self.path.join("doorward.db")
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret kept under `name`, made from 32 random bytes at its first use.
    ///
    /// It is written whole to a file of another name and then linked, so that two processes that start at
    /// once agree, and a crash leaves no half of a secret.
    pub fn secret(&self, name: &str) -> Result<SecretString, DataDirError> {
        let path = self.path.join(name);
        let unusable = |cause| DataDirError::Unusable { path: path.clone(), cause };
        loop {
            match File::open(&path) {
                Ok(mut file) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text).map_err(unusable)?;
                    let text = text.trim();
                    if text.len() < 32 {
                        return Err(DataDirError::Damaged(path));
                    }
                    return Ok(SecretString::from(text.to_owned()));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(unusable(error)),
            }
            let draft = self.path.join(format!("{name}.{}.new", std::process::id()));
            let written = write_secret(&draft).and_then(|()| match std::fs::hard_link(&draft, &path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
                _ => File::open(&self.path)?.sync_all(),
            });
            let removed = std::fs::remove_file(&draft);
            written.and(removed).map_err(unusable)?;
        }
    }
}

fn write_secret(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let random: [u8; 32] = rand::random();
    writeln!(file, "{}", BASE64_URL_SAFE_NO_PAD.encode(random))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn s10_a_missing_secret_is_made_once_and_is_its_owners_only() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(&folder.path().join("new")).unwrap();
        let first = data.secret("jwt.secret").unwrap();
        assert_eq!(first.expose_secret(), data.secret("jwt.secret").unwrap().expose_secret());
        assert!(first.expose_secret().len() >= 43);
        let mode = std::fs::metadata(data.path().join("jwt.secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_process_serves_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let lock = data.lock().unwrap();
        assert!(matches!(data.lock(), Err(DataDirError::InUse(_))));
        drop(lock);
        data.lock().unwrap();
    }
}
