//! From flags to a connected client.

use anyhow::{Context as _, Result};
use millstream_client::{Acks, Client, ProducerBuilder};

use crate::args::{self, BatchingArgs, ConnectionArgs};
use crate::failure::advised;

/// Connects within `--timeout`.
pub(crate) async fn connect(args: &ConnectionArgs) -> Result<Client> {
    let bootstrap = args.bootstrap_or_default();
    let mut builder = Client::builder()
        .bootstrap(bootstrap.iter().cloned())
        .client_id("millstream-cli")
        .request_timeout(args.timeout);
    match args.ca_or_default() {
        Some(ca) => builder = builder.ca_file(ca),
        None => {
            return Err(advised(
                format!("no certificate authority to trust: there is no {}", args::DEFAULT_CA),
                "start a broker here with `millstream serve`, or name the authority of a running \
                 one with --ca FILE (it is tls/ca.pem of its data directory)",
            ));
        }
    }
    if let (Some(cert), Some(key)) = (&args.cert, &args.cert_key) {
        let read = |path: &std::path::Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        builder = builder.identity_pem(read(cert)?, read(key)?);
    }
    let late = || {
        advised(
            format!("no answer from {} within {:?}", bootstrap.join(", "), args.timeout),
            "start a broker with `millstream serve`, or name a running one with --bootstrap",
        )
    };
    let client = tokio::time::timeout(args.timeout, builder.connect()).await;
    Ok(client.map_err(|_elapsed| late())??)
}

/// A producer's settings from the batching flags.
pub(crate) fn producer(client: &Client, args: &BatchingArgs) -> ProducerBuilder {
    let builder = client
        .producer()
        .batch_bytes(args.batch_bytes.as_usize())
        .buffer_bytes(args.buffer_bytes.as_usize())
        .compression(args.compression)
        .max_in_flight(args.max_in_flight)
        .delivery_timeout(args.delivery_timeout)
        .acks(match args.acks {
            args::Acks::All => Acks::All,
            args::Acks::Leader => Acks::Leader,
        });
    match args.linger {
        Some(linger) => builder.linger(linger),
        None => builder,
    }
}
