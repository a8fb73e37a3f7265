//! The API of an agent that runs: who is served what, over the socket and over TCP.

use std::{net::SocketAddr, path::Path, sync::Arc};

use hyper_util::rt::TokioIo;
use ringmesh_agentd::identity::{Identity, api, fingerprint, read_certificates, read_key, server_name, tls};
use ringmesh_proto::v1::{
    CreateTokenRequest, GetStatusRequest, LeaveRequest, ListHostsRequest, agent_client::AgentClient,
    hosts_client::HostsClient,
};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_stream::StreamExt;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::support::{LONG, Site, expect_good, expect_refused, ringmesh};

async fn over_socket(path: &Path) -> Channel {
    let path = path.to_owned();
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent").connect_with_connector(connect).await.expect("the agent serves")
}

#[tokio::test]
async fn standard_health_checkers_are_answered() {
    let site = Site::init("h1");
    let _agent = site.start();
    let mut client = HealthClient::new(over_socket(&site.socket()).await);
    for service in ["", "ringmesh.v1.Hosts", "ringmesh.v1.Agent"] {
        let answer = client.check(HealthCheckRequest { service: service.into() }).await.expect("it is known");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let unknown = client.check(HealthCheckRequest { service: "ringmesh.v1.Nothing".into() }).await;
    assert_eq!(unknown.expect_err("there is none").code(), Code::NotFound);
    let mut watch =
        client.watch(HealthCheckRequest { service: String::new() }).await.expect("it is known").into_inner();
    let first = tokio::time::timeout(LONG, watch.next()).await.expect("at once").expect("a first").expect("no error");
    assert_eq!(first.status(), ServingStatus::Serving);
}

/// Both versions of gRPC reflection have messages of the same names.
macro_rules! reflect {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let mut client = ServerReflectionClient::new($channel);
        let questions = [
            MessageRequest::ListServices(String::new()),
            MessageRequest::FileContainingSymbol("ringmesh.v1.Hosts".into()),
            MessageRequest::FileContainingSymbol("ringmesh.v1.Nothing".into()),
        ];
        let requests =
            questions.map(|question| ServerReflectionRequest { host: String::new(), message_request: Some(question) });
        let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.expect("it is served");
        let mut answers = answers.into_inner();
        let mut next = async || {
            let answer = tokio::time::timeout(LONG, answers.next()).await.expect("in time");
            answer.map(|answer| answer.map(|answer| answer.message_response.expect("an answer")))
        };
        let Some(Ok(MessageResponse::ListServicesResponse(list))) = next().await else { panic!("no list") };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        for name in ["ringmesh.v1.Hosts", "ringmesh.v1.Events", "ringmesh.v1.Agent", "grpc.health.v1.Health"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let Some(Ok(MessageResponse::FileDescriptorResponse(files))) = next().await else { panic!("no file") };
        let files: Vec<_> = files.file_descriptor_proto.iter().map(|file| decode_file(file)).collect();
        let services = files.iter().flat_map(|file| &file.service).map(|service| service.name());
        assert!(services.collect::<Vec<_>>().contains(&"Hosts"), "{files:?}");
        match next().await {
            Some(Err(status)) => assert_eq!(status.code(), Code::NotFound),
            Some(Ok(MessageResponse::ErrorResponse(error))) => assert_eq!(error.error_code, Code::NotFound as i32),
            other => panic!("{other:?}"),
        }
    }};
}

fn decode_file(bytes: &[u8]) -> prost_types::FileDescriptorProto {
    prost::Message::decode(bytes).expect("a file's descriptor")
}

#[tokio::test]
async fn grpcurl_finds_what_there_is_in_both_versions_of_reflection() {
    let site = Site::init("h1");
    let _agent = site.start();
    reflect!(v1, over_socket(&site.socket()).await);
    reflect!(v1alpha, over_socket(&site.socket()).await);
}

/// One call over TLS by hand: with what a client of good will would never use.
async fn call(address: SocketAddr, mut config: rustls::ClientConfig, name: &str) -> Result<(), String> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(name.to_owned()).expect("a DNS name");
    let stream = TcpStream::connect(address).await.expect("the agent listens");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let mut stream = Some(TokioIo::new(stream.map_err(|error| format!("handshake: {error}"))?));
    let connect = tower::service_fn(move |_| {
        std::future::ready(stream.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionReset)))
    });
    let endpoint = Endpoint::from_static("http://agent");
    let channel = endpoint.connect_with_connector(connect).await.map_err(|error| format!("after it: {error:?}"))?;
    let answer = AgentClient::new(channel).get_status(GetStatusRequest {}).await;
    answer.map(drop).map_err(|status| format!("after it: {status:?}"))
}

#[tokio::test]
async fn over_tcp_strangers_are_refused() {
    let (site, other) = (Site::init("h1"), Site::init("h1"));
    let mut agent = site.start();
    let ours = Identity::load(&site.path("state")).expect("init made it");
    let theirs = Identity::load(&other.path("state")).expect("init made it");
    let name = server_name(ours.cluster, ours.host);
    let pin = fingerprint(&ours.authorities[0]);

    let nobody = tls::join_client_config(pin).expect("ring");
    let error = call(site.listen, nobody, &name).await.expect_err("no certificate");
    assert!(error.starts_with("after it"), "{error}");

    // Of another cluster, one that believes our agent.
    let gullible = Identity {
        cluster: ours.cluster,
        host: theirs.host,
        name: "h1".into(),
        ring_seed: 0,
        chords: Default::default(),
        chain: theirs.chain.clone(),
        key: theirs.key.clone_key(),
        authorities: ours.authorities.clone(),
        authority_key: None,
    };
    let config = tls::peer_client_config(&gullible).expect("a usable identity");
    let error = call(site.listen, config, &name).await.expect_err("another cluster");
    assert!(error.starts_with("after it"), "{error}");

    // And one that does not.
    let config = tls::peer_client_config(&theirs).expect("a usable identity");
    let error = call(site.listen, config, &name).await.expect_err("another cluster");
    assert!(error.starts_with("handshake"), "{error}");

    // Not even TLS.
    let stream = TcpStream::connect(site.listen).await.expect("the agent listens");
    stream.writable().await.expect("it is connected");
    stream.try_write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("an empty buffer takes it");
    let mut answer = tokio::io::BufReader::new(stream);
    let mut bytes = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut answer, &mut bytes);
    let _ = tokio::time::timeout(LONG, end).await.expect("the agent hangs up");
    assert!(!bytes.starts_with(b"HTTP"), "{bytes:?}");

    let config = tls::peer_client_config(&ours).expect("a usable identity");
    call(site.listen, config, &name).await.expect("our own is served");
    assert!(agent.runs());
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn over_tcp_an_operator_acts_and_a_host_looks() {
    let site = Site::init("h1");
    let mut agent = site.start();
    let connect = async |who: &str| {
        let chain = read_certificates(&site.identity(&format!("{who}.pem"))).expect("init made it");
        let key = read_key(&site.identity(&format!("{who}.key"))).expect("init made it");
        let authorities = read_certificates(&site.identity("ca.pem")).expect("init made it");
        let config = tls::api_client_config(&authorities, chain, key.into()).expect("a usable identity");
        api::connect(site.listen, config).await.expect("one of the cluster")
    };
    let host = connect("host").await;
    let hosts = HostsClient::new(host.clone()).list_hosts(ListHostsRequest::default()).await.expect("it may look");
    assert_eq!(hosts.into_inner().hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["h1"]);
    let mut client = AgentClient::new(host);
    client.get_status(GetStatusRequest {}).await.expect("it may look");
    assert_eq!(code(client.create_token(CreateTokenRequest::default()).await), Code::PermissionDenied);
    assert_eq!(code(client.leave(LeaveRequest {}).await), Code::PermissionDenied);

    let mut client = AgentClient::new(connect("operator").await);
    let token = client.create_token(CreateTokenRequest::default()).await.expect("an operator may");
    assert!(token.into_inner().token.starts_with("rm1."));
    assert!(agent.runs(), "nobody left");
    client.leave(LeaveRequest {}).await.expect("an operator may");
    tokio::time::timeout(LONG, async {
        while agent.runs() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("who leaves ends");
}

#[test]
fn the_command_line_over_tcp() {
    let (site, other) = (Site::init("h1"), Site::init("h1"));
    let _agent = site.start();
    let address = site.listen.to_string();
    let path = |site: &Site, name: &str| site.identity(name).display().to_string();
    let command = |ca: &str, cert: &str, key: &str, words: &[&str]| {
        ringmesh(&[&["--host", &address, "--ca", ca, "--cert", cert, "--key", key], words].concat())
    };
    let (ca, cert, key) = (path(&site, "ca.pem"), path(&site, "operator.pem"), path(&site, "operator.key"));
    let list = ["host", "list", "-o", "json"];
    let ran = expect_good(command(&ca, &cert, &key, &list));
    assert!(ran.out.contains("\"name\": \"h1\"") && ran.err.is_empty(), "{ran:?}");
    let ran = expect_good(command(&ca, &cert, &key, &["token", "create"]));
    assert!(ran.out.starts_with("rm1."), "{ran:?}");

    let (host, host_key) = (path(&site, "host.pem"), path(&site, "host.key"));
    expect_good(command(&ca, &host, &host_key, &list));
    expect_refused(command(&ca, &host, &host_key, &["token", "create"]), 5, &["operator's certificate"]);

    let (their_ca, their_cert) = (path(&other, "ca.pem"), path(&other, "operator.pem"));
    let their_key = path(&other, "operator.key");
    let distrust = ["do not trust each other", &address, "check --ca"];
    expect_refused(command(&their_ca, &their_cert, &their_key, &list), 5, &distrust);
    expect_refused(command(&their_ca, &cert, &key, &list), 5, &distrust);
    expect_refused(command(&ca, &their_cert, &their_key, &list), 5, &distrust);
    expect_refused(command(&ca, &cert, &their_key, &list), 1, &["key"]);
    let nowhere = site.text_path("nowhere.pem");
    expect_refused(command(&ca, &nowhere, &key, &list), 1, &[&nowhere, "No such file", "--cert"]);
    expect_refused(command(&ca, &ca, &key, &list), 1, &["certificate"]);
}
