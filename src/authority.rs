//! An authority of one's own, that is trusted besides the public ones.

use std::path::Path;

use tokio_rustls::rustls::CertificateError;
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

/// What is wrong with a server's certificate, behind "the certificate"; `option` names files of authorities.
pub fn untrusted(error: &CertificateError, option: &str) -> String {
    match error {
        // A signature is bad where another authority of the same name has made it, such as a cluster's former one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("is of an unknown authority; {option} names the file of that authority's certificate")
        }
        // An error of the library beneath, which is known here by its name alone.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            format!(
                "is that of an authority, and no server's: have it issue one for the server, and name its own by {option}"
            )
        }
        error => format!("is not good: {error}"),
    }
}
