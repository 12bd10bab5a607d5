//! Peers that are wrong, late, too many or nobody: refused by themselves, others unaffected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use bytes::Bytes;
use millstream_net::{
    Authority, ClientAuth, ClientTls, ConnectError, Connection, Connector, ConnectorConfig,
    Received, close_code,
};
use millstream_service::Principal;
use millstream_types::ErrorCode;
use millstream_types::limits::{BATCH_BYTES_MAX, HELLO_STREAMS_MAX, HELLO_WINDOW_BYTES};
use millstream_wire::api::{ApiKey, read_response};
use millstream_wire::api::{FrameBody, Hello, MetadataRequest, Request, ServiceError};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Enough for what comes at all on loopback.
const SOON: Duration = Duration::from_millis(300);

fn metadata() -> Request {
    Request::Metadata(MetadataRequest { topics: None })
}

async fn works(connection: &Connection) {
    connection.request(&metadata(), WAIT).await.unwrap();
}

/// A QUIC connection with the right ALPN on which nothing was said yet.
pub(crate) async fn raw(cluster: &Cluster) -> (quinn::Endpoint, quinn::Connection) {
    raw_with(cluster, quinn::TransportConfig::default()).await
}

pub(crate) async fn raw_with(
    cluster: &Cluster,
    transport: quinn::TransportConfig,
) -> (quinn::Endpoint, quinn::Connection) {
    let mut roots = RootCertStore::empty();
    let pem = cluster.authority.certificate_pem().as_bytes();
    roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"millstream/1".to_vec()];
    let tls = QuicClientConfig::try_from(tls).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let endpoint = quinn::Endpoint::client(any).unwrap();
    let address = cluster.server.local_addr();
    let connection = endpoint.connect_with(config, address, "localhost").unwrap().await.unwrap();
    (endpoint, connection)
}

pub(crate) fn hello(version_min: u16, version_max: u16, namespace: &str) -> Bytes {
    let hello = Hello {
        version_min,
        version_max,
        client_id: "raw".to_owned(),
        namespace: namespace.to_owned(),
        software_name: "test".to_owned(),
        software_version: "0".to_owned(),
    };
    hello.to_frame().unwrap()
}

pub(crate) async fn exchange(connection: &quinn::Connection, bytes: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    // The other side may have stopped reading by now.
    drop(send.finish());
    let read = recv.read_to_end(1 << 20);
    tokio::time::timeout(WAIT, read).await.expect("an answer").unwrap_or_default()
}

async fn close_reason(connection: &quinn::Connection) -> (u64, String) {
    match tokio::time::timeout(WAIT, connection.closed()).await.expect("closed") {
        quinn::ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            (close.error_code.into_inner(), reason)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn malformed_streams_are_answered_and_harm_nobody() {
    let cluster = Cluster::start();
    let bystander = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (_endpoint, connection) = raw(&cluster).await;
    exchange(&connection, &hello(1, 1, "default")).await;
    let cases: [(&[u8], ErrorCode); 8] = [
        (&[0xff; 64], ErrorCode::UnsupportedVersion),
        (&[0xff, 0xff, 0xff, 0xff, 3, 1, 0, 0], ErrorCode::LimitExceeded),
        (&[0, 0, 0, 9, 99, 1, 0, 0], ErrorCode::InvalidRequest),
        (&[0, 0, 0, 9, 3, 1, 0, 0, 1, 2], ErrorCode::InvalidRequest),
        (&[0, 0, 0, 2, 3, 1, 0, 0, 1, 2], ErrorCode::InvalidRequest),
        (&[0, 0, 0, 0, 5, 1, 0, 0], ErrorCode::InvalidRequest),
        (&[0, 0, 0, 0, 9, 1, 0, 0], ErrorCode::InvalidRequest),
        (&[0, 0, 0, 0, 12, 1, 0, 0], ErrorCode::InvalidRequest),
    ];
    for (bytes, code) in cases {
        let answer = exchange(&connection, bytes).await;
        assert_eq!(answer[4], 4, "a Response frame");
        let error: ServiceError =
            read_response(ApiKey::Metadata, &answer[8..]).unwrap().unwrap_err();
        assert_eq!(error.code, code, "{bytes:?}: {}", error.message);
        works(&bystander).await;
    }
    assert_eq!(cluster.counter("quic_protocol_errors_total"), 8);
    assert_eq!(connection.close_reason(), None, "one bad stream costs only itself");
}

#[tokio::test]
async fn random_bytes_on_many_streams_harm_nobody() {
    let cluster = Cluster::start();
    let bystander = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (_endpoint, connection) = raw(&cluster).await;
    exchange(&connection, &hello(1, 1, "default")).await;
    let mut state = 1_u64;
    for round in 0..200 {
        let mut bytes: Vec<u8> = (0..round * 7)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            })
            .collect();
        // Half of them with a header that is well-formed.
        if round % 2 == 0 && bytes.len() > 8 {
            let body = u32::try_from(bytes.len() - 8).unwrap();
            bytes[..4].copy_from_slice(&body.to_be_bytes());
            bytes[4] = u8::try_from(round % 14).unwrap();
            bytes[5..8].copy_from_slice(&[1, 0, 0]);
        }
        exchange(&connection, &bytes).await;
    }
    works(&bystander).await;
    drop(connection);
    eventually("its streams are gone", || cluster.counter("quic_streams_open") == 0).await;
}

#[tokio::test]
async fn a_frame_of_an_unknown_kind_is_skipped_where_it_says_so() {
    let cluster = Cluster::start();
    let (_endpoint, connection) = raw(&cluster).await;
    exchange(&connection, &hello(1, 1, "default")).await;
    let mut bytes = vec![0, 0, 0, 3, 200, 1, 0, 1, 7, 7, 7];
    let call = millstream_wire::api::request_frame(0, Default::default(), &metadata()).unwrap();
    bytes.extend_from_slice(&call);
    let answer = exchange(&connection, &bytes).await;
    assert!(read_response(ApiKey::Metadata, &answer[8..]).unwrap().is_ok());
}

#[tokio::test]
async fn who_never_says_hello_is_closed() {
    let cluster = Cluster::start_with(ClientAuth::None, |config| {
        config.handshake_timeout = Duration::from_millis(300);
    });
    let (_endpoint, connection) = raw(&cluster).await;
    assert_eq!(close_reason(&connection).await.0, u64::from(close_code::HELLO_TIMEOUT));
    // Half a Hello is none.
    let (_endpoint, connection) = raw(&cluster).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&hello(1, 1, "default")[..20]).await.unwrap();
    assert_eq!(close_reason(&connection).await.0, u64::from(close_code::HELLO_TIMEOUT));
    assert_eq!(cluster.counter("quic_connections_refused_total"), 2);
}

#[tokio::test]
async fn a_request_before_hello_closes_the_connection() {
    let cluster = Cluster::start();
    let (_endpoint, connection) = raw(&cluster).await;
    let call = millstream_wire::api::request_frame(0, Default::default(), &metadata()).unwrap();
    exchange(&connection, &call).await;
    let (code, reason) = close_reason(&connection).await;
    assert_eq!(code, u64::from(close_code::PROTOCOL));
    assert!(reason.contains("Hello"), "{reason}");
}

#[tokio::test]
async fn a_hello_that_cannot_be_served_is_refused_with_the_reason() {
    let cluster = Cluster::start();
    for (bytes, text) in [(hello(2, 9, "default"), "version"), (hello(1, 1, "mine"), "namespace")] {
        let (_endpoint, connection) = raw(&cluster).await;
        let answer = exchange(&connection, &bytes).await;
        assert_eq!(answer[4], 2, "a HelloReply frame");
        let (code, reason) = close_reason(&connection).await;
        assert_eq!(code, u64::from(close_code::HELLO_REFUSED));
        assert!(reason.contains(text), "{reason}");
    }
    let config = ConnectorConfig { namespace: "mine".to_owned(), ..config() };
    let connector = Connector::new(&cluster.client_tls(None), config).unwrap();
    let refused = connector.connect(&cluster.endpoint()).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused:?}");
}

#[tokio::test]
async fn an_unfinished_frame_does_not_wait_for_ever() {
    let cluster = Cluster::start_with(ClientAuth::None, |config| {
        config.frame_timeout = Duration::from_millis(200);
    });
    let (_endpoint, connection) = raw(&cluster).await;
    exchange(&connection, &hello(1, 1, "default")).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[0, 0x10, 0, 0, 3, 1, 0, 0, 1, 2, 3]).await.unwrap();
    let answer = tokio::time::timeout(WAIT, recv.read_to_end(1 << 20)).await.unwrap().unwrap();
    let error = read_response(ApiKey::Metadata, &answer[8..]).unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::TimedOut);
}

#[tokio::test]
async fn one_address_has_its_bound_of_connections() {
    let cluster = Cluster::start_with(ClientAuth::None, |config| {
        config.connections_per_address_max = 2;
    });
    let connector = cluster.connector();
    let first = connector.connect(&cluster.endpoint()).await.unwrap();
    let second = connector.connect(&cluster.endpoint()).await.unwrap();
    let third = connector.connect(&cluster.endpoint()).await.unwrap_err();
    assert!(third.is_retriable(), "{third:?}");
    works(&first).await;
    second.close("enough");
    eventually("its place is free", || cluster.counter("quic_connections_open") == 1).await;
    works(&connector.connect(&cluster.endpoint()).await.unwrap()).await;
}

#[tokio::test]
async fn under_load_addresses_are_validated_first() {
    let cluster = Cluster::start_with(ClientAuth::None, |config| {
        config.validate_above_handshakes = 0;
    });
    works(&cluster.connector().connect(&cluster.endpoint()).await.unwrap()).await;
    assert_eq!(cluster.counter("quic_address_validations_total"), 1);
}

#[tokio::test]
async fn a_required_certificate_is_required_and_names_the_principal() {
    let authority = Authority::create(CLUSTER, NOW).unwrap();
    let authorities_pem = authority.certificate_pem().to_owned();
    let auth = ClientAuth::Required { authorities_pem };
    let cluster = Cluster::start_under(authority, auth, |_| {});
    let connect = async |identity| {
        let connector = Connector::new(&cluster.client_tls(identity), config()).unwrap();
        connector.connect(&cluster.endpoint()).await
    };
    let without = connect(None).await.unwrap_err();
    assert!(matches!(without, ConnectError::Untrusted { .. }), "{without:?}");
    assert!(without.to_string().contains("requires a client certificate"), "{without}");
    assert!(!without.is_retriable());

    let strangers = Authority::create(CLUSTER, NOW).unwrap();
    let foreign = connect(Some(strangers.issue_client("mallory", NOW).unwrap())).await.unwrap_err();
    assert!(matches!(foreign, ConnectError::Untrusted { .. }), "{foreign:?}");

    let alice = cluster.authority.issue_client("alice", NOW).unwrap();
    works(&connect(Some(alice)).await.unwrap()).await;
    let principals = cluster.memory.principals.lock().unwrap();
    assert_eq!(*principals, [Principal::Certificate("CN=alice".into())]);
}

#[tokio::test]
async fn a_broker_of_another_authority_is_refused_with_a_clear_error() {
    let cluster = Cluster::start();
    let other = Authority::create(CLUSTER, NOW).unwrap();
    let tls = ClientTls { roots_pem: other.certificate_pem().to_owned(), identity: None };
    let connector = Connector::new(&tls, config()).unwrap();
    let refused = connector.connect(&cluster.endpoint()).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Untrusted { .. }), "{refused:?}");
    assert!(refused.to_string().contains("not trusted"), "{refused}");
    assert!(!refused.is_retriable());
}

#[tokio::test]
async fn a_silent_address_times_out() {
    let cluster = Cluster::start();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = ConnectorConfig { connect_timeout: Duration::from_millis(300), ..config() };
    let connector = Connector::new(&cluster.client_tls(None), config).unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    let late = connector.connect(&endpoint).await.unwrap_err();
    assert!(matches!(late, ConnectError::Timeout { .. }), "{late:?}");
    assert!(late.is_retriable());
}

#[tokio::test]
async fn a_host_name_with_several_addresses_connects() {
    let cluster = Cluster::start();
    let endpoint = format!("localhost:{}", cluster.server.local_addr().port());
    works(&cluster.connector().connect(&endpoint).await.unwrap()).await;
}

#[tokio::test]
async fn before_hello_a_connection_holds_little() {
    let cluster = Cluster::start();
    let (_endpoint, connection) = raw(&cluster).await;
    let mut streams = Vec::new();
    for _ in 0..HELLO_STREAMS_MAX {
        streams.push(connection.open_bi().await.unwrap());
    }
    let one_more = tokio::time::timeout(SOON, connection.open_bi()).await;
    assert!(one_more.is_err(), "a stream too many");
    let mut taken = 0;
    // Not on the first: what is no Hello there would end the connection.
    for (send, _) in &mut streams[1..] {
        while let Ok(written) = tokio::time::timeout(SOON, send.write(&[0; 16_000])).await {
            taken += written.unwrap() as u64;
        }
    }
    assert_eq!(taken, HELLO_WINDOW_BYTES);
}

#[tokio::test]
async fn after_hello_a_connection_has_its_streams_and_its_window() {
    let cluster = Cluster::start();
    let (_endpoint, connection) = raw(&cluster).await;
    exchange(&connection, &hello(1, 1, "default")).await;
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let opened = tokio::time::timeout(WAIT, connection.open_bi()).await;
        streams.push(opened.unwrap().unwrap());
    }
    let more = vec![0; usize::try_from(HELLO_WINDOW_BYTES).unwrap() + 1];
    let written = streams[0].0.write_all(&more);
    tokio::time::timeout(WAIT, written).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_longest_batch_gets_through_the_least_window() {
    let cluster = Cluster::start_with(ClientAuth::None, |config| config.window_bytes_max = 0);
    let connection = cluster.connector().connect(&cluster.endpoint()).await.unwrap();
    let (_, mut sender, mut acks) = connection.open_produce(open_produce(LOG)).await.unwrap();
    let (_, mut feed) = connection.subscribe(open_subscription(LOG)).await.unwrap();
    let batch = Bytes::from(vec![7; BATCH_BYTES_MAX]);
    let work = async {
        sender.send(batch.clone()).await.unwrap();
        acks.next().await.unwrap().unwrap().unwrap();
        match feed.next().await.unwrap().unwrap() {
            Received::Batches { bytes, .. } => assert!(bytes == batch),
            other @ Received::Progress(_) => panic!("{other:?}"),
        }
    };
    tokio::time::timeout(WAIT, work).await.unwrap();
}
