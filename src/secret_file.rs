//! Files that hold a secret: their text, and who else may read or write them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// The longest, in bytes; a key has about 120.
const MAX_BYTES: u64 = 4096;
/// Whoever may write it may choose the secret.
const FORBIDDEN: u32 = 0o022;
/// Mounted secrets of Docker and Kubernetes are like that, unless told otherwise.
const UNWISE: u32 = 0o004;

/// What such a file holds.
pub struct SecretFile {
    /// All of it.
    pub text: Zeroizing<String>,
    /// What should be changed about the file.
    pub warning: Option<&'static str>,
}

/// Reads it. Errors: what is wrong, and nothing of the content.
pub fn read(path: &Path) -> Result<SecretFile, String> {
    let unreadable = |error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if found.is_dir() {
        return Err("is not a file".to_owned());
    }
    let mode = found.permissions().mode();
    if mode & FORBIDDEN != 0 {
        return Err("others may write the file; chmod 600 it".to_owned());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("holds more than {MAX_BYTES} bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let warning = (mode & UNWISE != 0).then_some(
        "everybody on this machine may read the file; give it the mode 0400, or 0440 and the gateway's group (Kubernetes: \
         defaultMode of the volume and fsGroup of the pod; Docker: mode, uid and gid of the secret)",
    );
    Ok(SecretFile { text: Zeroizing::new(text.to_owned()), warning })
}
