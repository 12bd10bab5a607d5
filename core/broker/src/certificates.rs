//! The certificates below the data directory: the cluster's authority, the broker's own
//! certificate, and one for administrators on this machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use millstream_net::ResetKey;
use millstream_net::tls::{Authority, ClientAuth, Identity, ServerTls, TlsError};
use millstream_types::{ClusterId, TimestampMs};

use crate::config::TlsSection;

const TLS_DIR: &str = "tls";
const RESET_KEY_BYTES: usize = 32;
/// The config value that names the cluster's own authority.
const CLUSTER_CA: &str = "cluster";

/// Why the broker has no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The cluster's authority has lost its key.
    #[error(
        "{} is there, but its key {} is not. Put the key back from a copy; or, to start over with \
         an authority that no client trusts yet, remove {} too",
        cert.display(), key.display(), cert.display()
    )]
    LostKey {
        /// The missing key.
        key: PathBuf,
        /// The authority's certificate.
        cert: PathBuf,
    },
    /// A certificate or key cannot be made or used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What the front needs, and where clients find whom to trust.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) tls: ServerTls,
    /// What clients pass as `--ca`: the authority's certificate, or the chain of a certificate of
    /// the operator's own.
    pub(crate) ca_file: PathBuf,
    /// Kept over restarts, so that clients of a crashed broker learn of it at once.
    pub(crate) reset_key: ResetKey,
}

/// Reads the certificates that the config names, or those of the cluster's own authority, which is
/// made on the first start. The broker's certificate is issued anew at every start, so that it is
/// never stale and always has the names of today's config. `fresh_key` becomes the reset key where
/// there is none yet.
///
/// # Errors
/// [`CertificateError`] names the file.
pub(crate) fn prepare(
    root: &Path,
    section: &TlsSection,
    advertised_host: Option<String>,
    cluster: ClusterId,
    now: TimestampMs,
    fresh_key: [u8; RESET_KEY_BYTES],
) -> Result<Certificates, CertificateError> {
    let dir = root.join(TLS_DIR);
    std::fs::create_dir_all(&dir)
        .map_err(|source| CertificateError::File { path: dir.clone(), source })?;
    let authority = load_or_create(&dir, cluster, now)?;
    let (identity, ca_file) = match (&section.cert_file, &section.key_file) {
        (Some(cert), Some(key)) => {
            (Identity { chain_pem: read(cert)?, key_pem: read(key)? }, cert.clone())
        }
        _ => {
            let mut names = section.names.clone();
            names.extend(advertised_host);
            (authority.issue_server(&names, now)?, dir.join("ca.pem"))
        }
    };
    let client_auth = match &section.client_ca_file {
        None => ClientAuth::None,
        Some(file) if file.as_os_str() == CLUSTER_CA => {
            issue_admin(&dir, &authority, now)?;
            ClientAuth::Required { authorities_pem: authority.certificate_pem().to_owned() }
        }
        Some(file) => ClientAuth::Required { authorities_pem: read(file)? },
    };
    let reset_key = load_or_create_reset_key(&dir, fresh_key)?;
    Ok(Certificates { tls: ServerTls { identity, client_auth }, ca_file, reset_key })
}

fn load_or_create_reset_key(
    dir: &Path,
    fresh: [u8; RESET_KEY_BYTES],
) -> Result<ResetKey, CertificateError> {
    let path = dir.join("reset.key");
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Some(key) = parse_hex(text.trim())
    {
        return Ok(ResetKey(key));
    }
    // Missing or damaged: a new one costs the clients of the last run a wait, nothing else.
    let text: String = fresh.iter().map(|byte| format!("{byte:02x}")).collect();
    write_secret(&path, &text)?;
    Ok(ResetKey(fresh))
}

fn parse_hex(text: &str) -> Option<[u8; RESET_KEY_BYTES]> {
    if text.len() != 2 * RESET_KEY_BYTES || !text.is_ascii() {
        return None;
    }
    let mut key = [0; RESET_KEY_BYTES];
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(key)
}

fn load_or_create(
    dir: &Path,
    cluster: ClusterId,
    now: TimestampMs,
) -> Result<Authority, CertificateError> {
    let (cert, key) = (dir.join("ca.pem"), dir.join("ca.key"));
    match (cert.exists(), key.exists()) {
        (true, true) => {
            let identity = Identity { chain_pem: read(&cert)?, key_pem: read(&key)? };
            return Ok(Authority::load(identity)?);
        }
        // A new authority would be a stranger to every client that trusts this one.
        (true, false) => return Err(CertificateError::LostKey { key, cert }),
        // The first start died between the two files: nobody has seen a certificate yet.
        (false, _) => {}
    }
    let authority = Authority::create(cluster, now)?;
    // The certificate last: where it stands, its key stands too.
    write_secret(&key, &authority.identity().key_pem)?;
    write_public(&cert, authority.certificate_pem())?;
    Ok(authority)
}

/// Writes the certificate with which an administrator on this machine connects.
fn issue_admin(
    dir: &Path,
    authority: &Authority,
    now: TimestampMs,
) -> Result<(), CertificateError> {
    let (cert, key) = (dir.join("admin.pem"), dir.join("admin.key"));
    if cert.exists() && key.exists() {
        return Ok(());
    }
    let identity = authority.issue_client("admin", now)?;
    write_secret(&key, &identity.key_pem)?;
    write_public(&cert, &identity.chain_pem)
}

fn read(path: &Path) -> Result<String, CertificateError> {
    std::fs::read_to_string(path)
        .map_err(|source| CertificateError::File { path: path.to_owned(), source })
}

fn write_public(path: &Path, text: &str) -> Result<(), CertificateError> {
    write(path, text, 0o644)
}

fn write_secret(path: &Path, text: &str) -> Result<(), CertificateError> {
    write(path, text, 0o600)
}

/// Puts a file in place, whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let put = || {
        // One left by a crash may have other permissions than it should.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        let mut file = options.open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    put().map_err(|source| CertificateError::File { path: path.to_owned(), source })
}
