//! A client: addresses, credentials and connections that producers, consumers and
//! administration share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millstream_env::clock::{Clock, SystemClock};
use millstream_net::{ClientTls, Connector, ConnectorConfig, Identity};
use millstream_types::limits::NAME_BYTES_MAX;
use millstream_wire::api::CommandId;

use crate::admin::Admin;
use crate::cluster::Cluster;
use crate::consumer::ConsumerBuilder;
use crate::error::ConnectError;
use crate::producer::ProducerBuilder;
use crate::random::Random;

/// Connections that end are given so long to say so to their brokers.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of a client. Only `bootstrap` and a certificate authority have no default.
#[derive(Clone)]
pub struct ClientBuilder {
    bootstrap: Vec<String>,
    ca_pem: Option<Vec<u8>>,
    ca_file: Option<PathBuf>,
    identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    client_id: String,
    namespace: String,
    request_timeout: Duration,
    connect_timeout: Duration,
}

impl std::fmt::Debug for ClientBuilder {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("bootstrap", &self.bootstrap)
            .field("client_id", &self.client_id)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    fn new() -> Self {
        Self {
            bootstrap: Vec::new(),
            ca_pem: None,
            ca_file: None,
            identity_pem: None,
            client_id: "millstream-rust".to_owned(),
            namespace: "default".to_owned(),
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// Addresses as host:port, tried in turn, each a quarter of a second after the one before,
    /// until one answers. Any broker of the cluster will do; give several, so that one that is
    /// down does not matter.
    #[must_use]
    pub fn bootstrap(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.bootstrap.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// The cluster's certificate authority, as PEM.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// The file that holds the cluster's certificate authority, as PEM. Read by `connect`.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// This client's certificate chain and private key, as PEM, for brokers that ask for them.
    #[must_use]
    pub fn identity_pem(mut self, cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity_pem = Some((cert.into(), key.into()));
        self
    }

    /// A name for this client in the brokers' logs and metrics. Default `millstream-rust`.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// The namespace of all topics that this client names. Default `default`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The longest that one request may take, retries included. Default 30 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The longest that one attempt to connect to one address may take. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Connects to the bootstrap address that answers first.
    ///
    /// # Errors
    /// A setting or a certificate is unusable; or no address answered: the error lists each
    /// with its reason.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        if self.bootstrap.is_empty() {
            return Err(ConnectError::NoBootstrap);
        }
        for (setting, value) in [("client_id", &self.client_id), ("namespace", &self.namespace)] {
            if value.len() > NAME_BYTES_MAX {
                let reason = format!("at most {NAME_BYTES_MAX} bytes");
                return Err(ConnectError::Setting { setting, reason });
            }
        }
        let tls = ClientTls { roots_pem: self.roots().await?, identity: self.identity()? };
        let config = ConnectorConfig {
            client_id: self.client_id,
            namespace: self.namespace,
            connect_timeout: self.connect_timeout,
            open_timeout: self.request_timeout,
            ..ConnectorConfig::default()
        };
        let connector = Connector::new(&tls, config)
            .map_err(|error| ConnectError::Tls { reason: error.to_string() })?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let random = Arc::new(Random::new());
        let cluster = Cluster::new(
            connector,
            self.bootstrap,
            self.request_timeout,
            Arc::clone(&clock),
            Arc::clone(&random),
        );
        cluster.bootstrap().await?;
        Ok(Client { cluster: Arc::new(cluster), clock, random })
    }

    async fn roots(&self) -> Result<String, ConnectError> {
        match (&self.ca_pem, &self.ca_file) {
            (Some(pem), _) => utf8(pem.clone()),
            (None, Some(path)) => read_text(path).await,
            (None, None) => Err(ConnectError::NoAuthority),
        }
    }

    fn identity(&self) -> Result<Option<Identity>, ConnectError> {
        let Some((cert, key)) = &self.identity_pem else { return Ok(None) };
        Ok(Some(Identity { chain_pem: utf8(cert.clone())?, key_pem: utf8(key.clone())? }))
    }
}

fn utf8(pem: Vec<u8>) -> Result<String, ConnectError> {
    let not_pem = |_| ConnectError::Tls { reason: "PEM is text, this is not".to_owned() };
    String::from_utf8(pem).map_err(not_pem)
}

async fn read_text(path: &Path) -> Result<String, ConnectError> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|error| ConnectError::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

/// A connected client. Cheap to clone; clones share their connections, which close with the
/// last clone and the last producer or consumer made from it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<Random>,
}

impl Client {
    /// Starts a client's settings.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// Administrative calls.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Starts a producer's settings.
    #[must_use]
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// Starts a consumer's settings.
    #[must_use]
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone())
    }

    /// Closes the client's connections and waits, a second at most, until the brokers know.
    /// Producers and consumers made from it reach no broker from here on: close them first.
    pub async fn close(&self) {
        self.cluster.close(CLOSE_TIMEOUT).await;
    }

    /// An id for one change of metadata; a retry keeps it.
    pub(crate) fn new_command(&self) -> CommandId {
        CommandId(self.random.id())
    }
}
