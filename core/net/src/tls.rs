//! Who is who: the cluster's authority, the certificates that it issues, and whom each side trusts.
//! TLS 1.3 only, never without encryption. This module takes and returns PEM; files are the
//! caller's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use millstream_service::Principal;
use millstream_types::{ClusterId, TimestampMs};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The protocol's name in TLS.
pub const ALPN: &[u8] = b"millstream/1";
/// How long an authority is valid.
pub const AUTHORITY_VALID: Duration = Duration::from_secs(3650 * 86_400);
/// How long an issued certificate is valid.
pub const CERTIFICATE_VALID: Duration = Duration::from_secs(825 * 86_400);
/// A new certificate is valid from this long before it is made: clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(86_400);

/// Why keys or certificates cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// PEM text does not hold what it should.
    #[error("{what}: {detail}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A certificate cannot be made: a name that no certificate can carry, or an unusable key.
    #[error("a certificate cannot be made: {0}")]
    Issue(#[from] rcgen::Error),
    /// Certificates and key do not fit together or into TLS.
    #[error("TLS refuses these certificates: {0}")]
    Config(String),
}

impl TlsError {
    fn config(error: impl std::fmt::Display) -> Self {
        Self::Config(error.to_string())
    }
}

/// A certificate with its private key, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, then those between it and its authority.
    pub chain_pem: String,
    /// The private key, PKCS #8. Keep the file readable by its owner alone.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// The cluster's certificate authority, with its key: it can issue.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    identity: Identity,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority (ECDSA P-256) of `cluster`, valid for [`AUTHORITY_VALID`] from `now`.
    ///
    /// # Errors
    /// [`TlsError::Issue`] when the system has no randomness.
    pub fn create(cluster: ClusterId, now: TimestampMs) -> Result<Self, TlsError> {
        let mut params = params(&format!("Millstream {cluster}"), vec![], now, AUTHORITY_VALID)?;
        // It signs brokers and clients directly, never another authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let chain_pem = params.self_signed(&key)?.pem();
        let identity = Identity { chain_pem, key_pem: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), identity })
    }

    /// The authority that [`Authority::identity`] was written from.
    ///
    /// # Errors
    /// [`TlsError`] when the PEM holds no certificate or key, or the key is not the certificate's.
    pub fn load(identity: Identity) -> Result<Self, TlsError> {
        let key = KeyPair::from_pem(&identity.key_pem)?;
        let certificates = certificates("authority certificate", &identity.chain_pem)?;
        let first = certificates.first().ok_or_else(|| missing("authority certificate"))?;
        let (_, parsed) = X509Certificate::from_der(first).map_err(TlsError::config)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(TlsError::config("the authority's key is not its certificate's"));
        }
        let issuer = Issuer::from_ca_cert_der(first, key)?;
        Ok(Self { issuer, identity })
    }

    /// The authority with its key, to be kept secret.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The authority without its key: what peers need to trust it.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.identity.chain_pem
    }

    /// A certificate for a broker that is reached as `localhost`, `127.0.0.1`, `::1` or one of
    /// `names` (host names or addresses), valid for [`CERTIFICATE_VALID`] from `now`.
    ///
    /// # Errors
    /// [`TlsError::Issue`] when a name is neither a host name nor an address.
    pub fn issue_server(&self, names: &[String], now: TimestampMs) -> Result<Identity, TlsError> {
        let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
        for name in names {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        let mut params = params("Millstream broker", all, now, CERTIFICATE_VALID)?;
        // Client authentication too: brokers speak to each other under the same certificate.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// A certificate for a client whose principal will be `CN=name`, valid for
    /// [`CERTIFICATE_VALID`] from `now`.
    ///
    /// # Errors
    /// [`TlsError::Issue`] when the system has no randomness.
    pub fn issue_client(&self, name: &str, now: TimestampMs) -> Result<Identity, TlsError> {
        let mut params = params(name, vec![], now, CERTIFICATE_VALID)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Identity, TlsError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let chain_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { chain_pem, key_pem: key.serialize_pem() })
    }
}

fn params(
    name: &str,
    names: Vec<String>,
    now: TimestampMs,
    valid: Duration,
) -> Result<CertificateParams, TlsError> {
    let since_epoch = Duration::from_millis(now.0.max(0).unsigned_abs());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = epoch + since_epoch.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + since_epoch.saturating_add(valid);
    Ok(params)
}

/// Whether clients must prove who they are.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// Every client is [`Principal::Anonymous`]. For loopback.
    None,
    /// Every client needs a certificate that one of these authorities (PEM) signed.
    Required {
        /// The authorities' certificates.
        authorities_pem: String,
    },
}

/// A broker's side of TLS.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The broker's certificate and key.
    pub identity: Identity,
    /// Whether clients must prove who they are.
    pub client_auth: ClientAuth,
}

/// A client's side of TLS.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Certificates of the authorities that the client trusts to name brokers.
    pub roots_pem: String,
    /// The client's own certificate and key, for brokers that ask.
    pub identity: Option<Identity>,
}

impl ServerTls {
    pub(crate) fn quic(&self) -> Result<QuicServerConfig, TlsError> {
        let provider = provider();
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::config)?;
        let builder = match &self.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::Required { authorities_pem } => {
                let roots = Arc::new(roots(authorities_pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().map_err(TlsError::config)?)
            }
        };
        let (chain, key) = parse(&self.identity)?;
        let mut config = builder.with_single_cert(chain, key).map_err(TlsError::config)?;
        config.ignore_client_order = true;
        config.alpn_protocols = vec![ALPN.to_vec()];
        QuicServerConfig::try_from(config).map_err(TlsError::config)
    }
}

impl ClientTls {
    pub(crate) fn quic(&self) -> Result<QuicClientConfig, TlsError> {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::config)?
            .with_root_certificates(roots(&self.roots_pem)?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = parse(identity)?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::config)?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        QuicClientConfig::try_from(config).map_err(TlsError::config)
    }
}

/// The one crypto provider, AES-128 first: on the processors that brokers run on it costs less
/// than AES-256 and half of ChaCha20, and QUIC spends a good part of its time there.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

fn missing(what: &'static str) -> TlsError {
    TlsError::Pem { what, detail: "none found".to_owned() }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certificates = parsed.map_err(|error| TlsError::Pem { what, detail: error.to_string() })?;
    if certificates.is_empty() { Err(missing(what)) } else { Ok(certificates) }
}

fn roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("authority certificate", pem)? {
        store.add(certificate).map_err(TlsError::config)?;
    }
    Ok(store)
}

type Parsed = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parse(identity: &Identity) -> Result<Parsed, TlsError> {
    let chain = certificates("certificate", &identity.chain_pem)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|error| TlsError::Pem { what: "private key", detail: error.to_string() })?;
    Ok((chain, key))
}

/// Who the peer of a connection proved to be.
pub(crate) fn principal(connection: &quinn::Connection, peer: SocketAddr) -> Principal {
    let Some(identity) = connection.peer_identity() else { return Principal::Anonymous };
    let chain = identity.downcast_ref::<Vec<CertificateDer<'static>>>();
    let Some(first) = chain.and_then(|chain| chain.first()) else { return Principal::Anonymous };
    match X509Certificate::from_der(first) {
        Ok((_, certificate)) => Principal::Certificate(certificate.subject().to_string().into()),
        Err(error) => {
            tracing::warn!(%peer, %error, "an accepted certificate cannot be read");
            Principal::Anonymous
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimestampMs = TimestampMs(1_795_000_000_000);

    #[test]
    fn an_authority_survives_being_written_and_read() {
        let made = Authority::create(ClusterId::NIL, NOW).unwrap();
        let read = Authority::load(made.identity().clone()).unwrap();
        let server = read.issue_server(&["broker-1.example".to_owned()], NOW).unwrap();
        let tls = ServerTls { identity: server, client_auth: ClientAuth::None };
        assert!(tls.quic().is_ok());
        assert_eq!(read.certificate_pem(), made.certificate_pem());
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let one = Authority::create(ClusterId::NIL, NOW).unwrap();
        let other = Authority::create(ClusterId::NIL, NOW).unwrap();
        let mixed = Identity {
            chain_pem: one.certificate_pem().to_owned(),
            key_pem: other.identity().key_pem.clone(),
        };
        assert!(matches!(Authority::load(mixed), Err(TlsError::Config(_))));
    }

    #[test]
    fn text_that_is_no_pem_is_refused() {
        let identity = Identity { chain_pem: "hello".into(), key_pem: "world".into() };
        assert!(Authority::load(identity.clone()).is_err());
        let tls = ServerTls { identity, client_auth: ClientAuth::None };
        assert!(matches!(tls.quic(), Err(TlsError::Pem { .. })));
    }

    #[test]
    fn a_key_never_shows_in_debug_output() {
        let made = Authority::create(ClusterId::NIL, NOW).unwrap();
        assert!(!format!("{made:?}").contains("PRIVATE KEY"));
    }
}
