//! An authority of one's own, that is trusted besides the public ones.

use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// A file of certificates in PEM form.
#[derive(Debug)]
pub struct Authority {
    /// Its text.
    pub pem: Vec<u8>,
    /// What it holds: at least one.
    pub certificates: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// Reads a file. Errors: one line that begins with the `option` that names the file.
    pub fn read(option: &str, path: &Path) -> Result<Self, String> {
        let unusable = |cause: &str| format!("{option}: {}: {cause}", path.display());
        let pem = std::fs::read(path).map_err(|error| unusable(&error.to_string()))?;
        match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
            Ok(certificates) if !certificates.is_empty() => Ok(Self { pem, certificates }),
            _ => Err(unusable("holds no certificate in PEM form")),
        }
    }
}
