//! Handshakes over loopback: who is let in, what is said when not, and files that change.

use std::path::Path;
use std::time::Duration;

use diffluent_testbed::certificates::{Authority, Identity, TlsClient};
use diffluent_testbed::guard::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::net::{DialError, Dialer, Stream};

const PATIENCE: Duration = Duration::from_secs(20);

fn file(dir: &TempDir, name: &str, text: &str) -> std::path::PathBuf {
    diffluent_testbed::certificates::write(dir.path(), name, text).unwrap()
}

fn shown(dir: &TempDir, identity: &Identity) -> Files {
    let files = identity.write(dir.path(), "shown").unwrap();
    Files {
        table: "[proxy.tls]".to_owned(),
        certificate: Some(files.certificate),
        key: Some(files.key),
        ca: None,
        ca_key: "client_ca",
    }
}

fn trusting(dir: &TempDir, authority: &Authority) -> Files {
    let ca = file(dir, "ca.crt", authority.pem());
    Files { table: "[local.tls]".to_owned(), ca: Some(ca), ca_key: "ca", ..Files::default() }
}

/// A listener that shakes hands with one client after the other and sends back what it gets. What each handshake came to.
async fn echo(tls: Arc<ServerTls>) -> (u16, tokio::sync::mpsc::Receiver<Result<Option<String>, HandshakeFailure>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, came) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            match tls.accept(tcp).await {
                Ok(Accepted { stream, server_name }) => {
                    told.send(Ok(server_name)).await.unwrap();
                    tokio::spawn(async move {
                        let (mut reader, mut writer) = tokio::io::split(stream);
                        let _ = tokio::io::copy(&mut reader, &mut writer).await;
                        let _ = writer.shutdown().await;
                    });
                }
                Err(failure) => told.send(Err(failure)).await.unwrap(),
            }
        }
    });
    (port, came)
}

async fn dial(files: Files, server_name: Option<&str>, host: &str, port: u16) -> Result<Stream, String> {
    let dialer = Dialer::tls(Arc::new(ClientTls::load(files, server_name).unwrap()));
    dialer.dial(host, port, PATIENCE).await.map_err(|error| {
        assert!(matches!(error, DialError::Tls { .. }), "{error:?}");
        error.to_string()
    })
}

#[tokio::test]
async fn bytes_go_both_ways_in_any_size_and_the_end_of_each_direction_is_seen() {
    let (dir, authority) = (TempDir::new("tls-").unwrap(), Authority::new("authority").unwrap());
    let server = authority.server(&["localhost", "127.0.0.1"]).unwrap();
    let tls = Arc::new(ServerTls::load(shown(&dir, &server), ClientCertificates::Ignored).unwrap());
    let (port, mut came) = echo(tls).await;
    let stream = dial(trusting(&dir, &authority), None, "127.0.0.1", port).await.unwrap();
    let Stream::Tls(tls) = &stream else { panic!("no TLS") };
    let facts = tls.facts();
    assert_eq!(facts.protocol, "TLS 1.3");
    let certificate = facts.certificate.unwrap();
    assert_eq!(certificate.names, ["localhost", "127.0.0.1"]);
    assert!(certificate.is_for("localhost") && !certificate.is_for("example.com"));
    assert_eq!(came.recv().await.unwrap().unwrap(), None, "addresses are not asked for by name");

    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        let mut rest = sent.as_slice();
        for size in [1, 5, 4095, 4096, 16_384, 16_385, 65_536, 100_000].into_iter().cycle() {
            let (part, behind) = rest.split_at(size.min(rest.len()));
            writer.write_all(part).await.unwrap();
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        writer.flush().await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    tokio::time::timeout(PATIENCE, reader.read_to_end(&mut got)).await.unwrap().unwrap();
    writing.await.unwrap();
    assert!(got == expected, "{} bytes", got.len());
}

#[tokio::test]
async fn what_is_wrong_with_a_broker_is_said_with_what_to_do() {
    let (dir, authority, other) =
        (TempDir::new("tls-").unwrap(), Authority::new("authority").unwrap(), Authority::new("other").unwrap());
    let names = &["kafka.example.com", "localhost"];
    let cases: [(Identity, Option<&str>, &[&str]); 4] = [
        (authority.expired_server(&["localhost"]).unwrap(), None, &["has expired on 2020-12-31", "must be renewed"]),
        (
            authority.server(&["kafka.example.com"]).unwrap(),
            None,
            &["is for kafka.example.com, where one for localhost is needed", "server_name in [local.tls]"],
        ),
        (other.server(names).unwrap(), None, &["not in the file of ca in [local.tls]"]),
        (authority.server(names).unwrap(), Some("broker.invalid"), &["where one for broker.invalid is needed"]),
    ];
    for (identity, server_name, says) in cases {
        let tls = Arc::new(ServerTls::load(shown(&dir, &identity), ClientCertificates::Ignored).unwrap());
        let (port, mut came) = echo(tls).await;
        let error = dial(trusting(&dir, &authority), server_name, "localhost", port).await.unwrap_err();
        for part in says {
            assert!(error.contains(part), "lacks {part:?}: {error}");
        }
        // The other side is told by an alert.
        let failure = came.recv().await.unwrap().unwrap_err();
        assert_eq!(failure.reason, "tls_failed", "{failure}");
        assert!(failure.what.contains("alert") && failure.what.contains("[proxy.tls]"), "{failure}");
    }
    // The name can be another than the host's.
    let tls = ServerTls::load(shown(&dir, &authority.server(names).unwrap()), ClientCertificates::Ignored).unwrap();
    let (port, mut came) = echo(Arc::new(tls)).await;
    dial(trusting(&dir, &authority), Some("kafka.example.com"), "127.0.0.1", port).await.unwrap();
    assert_eq!(came.recv().await.unwrap().unwrap().as_deref(), Some("kafka.example.com"));
}

#[tokio::test]
async fn a_plaintext_listener_is_told_apart_whether_it_answers_or_closes() {
    let (dir, authority) = (TempDir::new("tls-").unwrap(), Authority::new("authority").unwrap());
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(answer).await.unwrap();
        });
        let error = dial(trusting(&dir, &authority), None, "localhost", port).await.unwrap_err();
        assert!(
            error.contains("is this its PLAINTEXT listener?") && error.contains("leave out [local.tls]"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn only_clients_with_a_good_certificate_are_let_in_where_one_is_required() {
    let (dir, ours, theirs) =
        (TempDir::new("tls-").unwrap(), Authority::new("ours").unwrap(), Authority::new("theirs").unwrap());
    let server = ours.server(&["localhost"]).unwrap();
    let clients = file(&dir, "clients.crt", theirs.pem());
    let cases: [(Option<Identity>, &str); 4] = [
        (None, "it shows no certificate, and client_auth is \"require\""),
        (Some(theirs.expired_client("me").unwrap()), "its certificate has expired on 2020-12-31"),
        (Some(ours.client("me").unwrap()), "not, or no longer, in the file of client_ca in [proxy.tls]"),
        (Some(theirs.client("me").unwrap()), ""),
    ];
    for clients_are in [ClientCertificates::Asked, ClientCertificates::Required] {
        let files = Files { ca: Some(clients.clone()), ..shown(&dir, &server) };
        let (port, mut came) = echo(Arc::new(ServerTls::load(files, clients_are).unwrap())).await;
        for (identity, says) in &cases {
            let client = TlsClient::new(ours.pem(), identity.as_ref()).unwrap();
            let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let connected = client.connect("localhost", tcp).await;
            let came = came.recv().await.unwrap();
            if says.is_empty() || (identity.is_none() && clients_are == ClientCertificates::Asked) {
                assert_eq!(came.unwrap().as_deref(), Some("localhost"));
                let mut stream = connected.unwrap();
                stream.write_all(b"x").await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
            } else {
                let failure = came.unwrap_err();
                assert_eq!(failure.reason, "client_certificate");
                assert!(failure.what.contains(says), "lacks {says:?}: {failure}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_without_tls_and_one_that_just_leaves_are_told_apart() {
    let (dir, authority) = (TempDir::new("tls-").unwrap(), Authority::new("authority").unwrap());
    let files = shown(&dir, &authority.server(&["localhost"]).unwrap());
    let (port, mut came) = echo(Arc::new(ServerTls::load(files, ClientCertificates::Ignored).unwrap())).await;
    for plaintext in [&b"\0\0\0\x2a\0\x12\0\x03\0\0\0\0\0\x05hello"[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tcp.write_all(plaintext).await.unwrap();
        let failure = came.recv().await.unwrap().unwrap_err();
        assert_eq!((failure.reason, failure.is_expected), ("not_tls", false), "{failure}");
        assert!(failure.what.contains("security.protocol=SSL"), "{failure}");
    }
    drop(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    let failure = came.recv().await.unwrap().unwrap_err();
    assert_eq!((failure.reason, failure.is_expected), ("client_lost", true), "{failure}");
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let (dir, authority) = (TempDir::new("tls-").unwrap(), Authority::new("authority").unwrap());
    let good = authority.server(&["localhost"]).unwrap();
    let another = authority.server(&["localhost"]).unwrap();
    let files = shown(&dir, &good);
    let load = |files: Files| ServerTls::load(files, ClientCertificates::Ignored).unwrap_err().to_string();
    let missing = Files { key: Some(dir.path().join("no.key")), ..files.clone() };
    assert!(load(missing).contains("no.key\": can't be read: No such file"));
    let empty = Files { certificate: Some(file(&dir, "empty", "")), ..files.clone() };
    assert!(load(empty).starts_with("[proxy.tls] certificate = \""), "the key is not named");
    let swapped = Files { certificate: files.key.clone(), ..files.clone() };
    assert!(load(swapped).contains("holds no certificate"));
    let swapped = Files { key: files.certificate.clone(), ..files.clone() };
    assert!(load(swapped).contains("holds no private key"));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = Files { key: Some(file(&dir, "encrypted", encrypted)), ..files.clone() };
    assert!(load(encrypted).contains("the key is encrypted: decrypt it"));
    let other_key = Files { key: Some(file(&dir, "other", &another.key)), ..files.clone() };
    let error = load(other_key);
    assert!(error.contains("is not the private key of certificate = \""), "{error}");
    let garbage = Files { ca: Some(file(&dir, "garbage", "-----BEGIN CERTIFICATE-----\n!!\n")), ..files };
    assert!(load(garbage).contains("client_ca = \""));
}

/// Replaces the files that [`shown`] has written.
fn replace(dir: &Path, identity: &Identity) {
    identity.write(dir, "shown").unwrap();
}

#[test]
fn changed_files_hold_from_then_on_and_bad_ones_change_nothing_and_are_told_once() {
    let (dir, authority) = (TempDir::new("tls-").unwrap(), Authority::new("authority").unwrap());
    let files = shown(&dir, &authority.server_for_days(&["first"], 10).unwrap());
    let tls = ServerTls::load(files.clone(), ClientCertificates::Ignored).unwrap();
    let keyring = tls.keyring();
    let shown = || keyring.certificate().unwrap().1.names.clone();
    assert_eq!((keyring.reread(true), shown()), (Rereading::Same, vec!["first".to_owned()]));

    let second = authority.server_for_days(&["second"], 20).unwrap();
    replace(dir.path(), &second);
    assert_eq!((keyring.reread(true), shown()), (Rereading::Loaded, vec!["second".to_owned()]));
    assert_eq!(keyring.reread(true), Rereading::Same);
    assert!((19 * 24 * 3600..=20 * 24 * 3600).contains(&keyring.certificate().unwrap().1.seconds_left()));

    // Between the two files: seen once, it is a moment; seen twice, it is wrong.
    let third = authority.server(&["third"]).unwrap();
    std::fs::write(files.certificate.as_ref().unwrap(), &third.certificate).unwrap();
    assert_eq!(keyring.reread(true), Rereading::Same);
    let Rereading::Refused(error) = keyring.reread(true) else { panic!("not told") };
    assert!(error.to_string().contains("is not the private key"), "{error}");
    assert_eq!(
        (keyring.reread(true), keyring.reread(false), shown()),
        (Rereading::Same, Rereading::Same, vec!["second".to_owned()])
    );
    std::fs::write(files.key.as_ref().unwrap(), &third.key).unwrap();
    assert_eq!((keyring.reread(true), shown()), (Rereading::Loaded, vec!["third".to_owned()]));

    // Somebody who asks is told at once.
    std::fs::remove_file(files.key.as_ref().unwrap()).unwrap();
    let Rereading::Refused(error) = keyring.reread(false) else { panic!("not told") };
    assert!(error.to_string().contains("can't be read"), "{error}");
    std::fs::write(files.key.as_ref().unwrap(), &third.key).unwrap();
    assert_eq!((keyring.reread(true), shown()), (Rereading::Same, vec!["third".to_owned()]));
}
