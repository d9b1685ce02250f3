use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::{Advertise, Front, FrontConfig, FrontError, FrontSettings, Limits, SessionMetrics};
use super::*;
use crate::net::Dialer;

/// A broker that answers every Metadata v0 request with a fixed list, and tells who it is at the end.
async fn broker(brokers: Vec<(i32, &'static str, u16)>, listener: TcpListener, me: u8) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let brokers = brokers.clone();
        tokio::spawn(async move {
            let mut asked = [0; 20];
            while stream.read_exact(&mut asked).await.is_ok() {
                let id = i32::from_be_bytes(asked[8..12].try_into().unwrap());
                stream.write_all(&metadata(id, &brokers, &[me])).await.unwrap();
            }
        });
    }
}

struct Running {
    address: SocketAddr,
    brokers: Arc<Brokers>,
    metrics: Arc<SessionMetrics>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<Result<(), FrontError>>,
}

fn settings() -> FrontSettings {
    FrontSettings {
        frame_bytes_max: 1 << 20,
        dial_timeout: Duration::from_secs(5),
        drain_within: Duration::from_secs(5),
        limits: Limits::default(),
    }
}

fn front(bootstrap: &[SocketAddr], known: Vec<(i32, String, u16)>) -> Running {
    let config = FrontConfig {
        listen: "127.0.0.1:0".to_owned(),
        advertise: Advertise::Ports { host: "127.0.0.1".into(), ports: 0..=0 },
        tls: None,
        bootstrap_servers: bootstrap.iter().map(SocketAddr::to_string).collect(),
        dialer: Dialer::plain(),
        settings: settings(),
    };
    let metrics = Arc::new(SessionMetrics::default());
    let front = Front::bind(config, known, Arc::new(Capture::new(0)), Arc::clone(&metrics)).unwrap();
    let (shutdown, stop) = watch::channel(false);
    let (address, brokers) = (front.bootstrap_addr(), front.brokers());
    Running { address, brokers, metrics, shutdown, task: tokio::spawn(front.serve(stop)) }
}

async fn ask(stream: &mut TcpStream) -> (Vec<(i32, String, u16)>, u8) {
    stream.write_all(&request(3, 0, 6, &[0, 0, 0, 0])).await.unwrap();
    let length = i32::from_be_bytes(read(stream, 4).await.try_into().unwrap());
    let message = read(stream, length as usize).await;
    let head = crate::wire::rewrite::find(3, 0, &message).unwrap();
    let told = head.spots.iter().map(|spot| (spot.node_id(), spot.host().to_owned(), spot.port())).collect();
    (told, *message.last().unwrap())
}

#[tokio::test]
async fn each_brokers_port_leads_to_it_and_new_brokers_get_one_without_a_restart() {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bootstrap = first.local_addr().unwrap();
    let list = vec![(1, "127.0.0.1", bootstrap.port()), (2, "127.0.0.1", second.local_addr().unwrap().port())];
    tokio::spawn(broker(list.clone(), first, 11));
    tokio::spawn(broker(list.clone(), second, 22));
    // Broker 2 is not known at the start.
    let running = front(&[bootstrap], vec![(1, "127.0.0.1".to_owned(), bootstrap.port())]);
    assert_eq!(running.brokers.routes().len(), 1);

    let mut client = TcpStream::connect(running.address).await.unwrap();
    let (told, _) = ask(&mut client).await;
    assert_eq!(told.iter().map(|(node_id, ..)| *node_id).collect::<Vec<_>>(), [1, 2]);
    for ((_, host, port), me) in told.iter().zip([11, 22]) {
        assert!(list.iter().all(|(_, _, own)| own != port), "a broker's own address leaks");
        let mut client = TcpStream::connect((host.as_str(), *port)).await.unwrap();
        assert_eq!(ask(&mut client).await, (told.clone(), me));
    }
    assert!(running.metrics.connections() >= 1);

    running.shutdown.send_replace(true);
    tokio::time::timeout(PATIENCE, running.task).await.unwrap().unwrap().unwrap();
    assert_eq!(running.metrics.connections(), 0);
    assert_eq!(read_to_end(&mut client).await, b"");
    assert!(TcpStream::connect(running.address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn a_broker_that_is_down_closes_its_clients_and_no_others() {
    let up = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bootstrap = up.local_addr().unwrap();
    tokio::spawn(broker(vec![], up, 11));
    let running = front(&[down, bootstrap], vec![(2, down.ip().to_string(), down.port())]);
    let port = running.brokers.route(2).unwrap().advertised_port.unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(read_to_end(&mut client).await, b"");
    // The bootstrap port finds one that is up, whichever comes first.
    for _ in 0..3 {
        let mut client = TcpStream::connect(running.address).await.unwrap();
        assert_eq!(ask(&mut client).await.1, 11);
    }
    assert_eq!(running.metrics.closed("dial_failed"), 1);
}

#[tokio::test]
async fn a_reset_travels_to_the_other_side() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = front(&[listener.local_addr().unwrap()], vec![]);

    let mut client = TcpStream::connect(running.address).await.unwrap();
    let (mut broker, _) = listener.accept().await.unwrap();
    client.write_all(&request(2, 1, 1, b"")).await.unwrap();
    read(&mut broker, 16).await;
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let error = tokio::time::timeout(PATIENCE, broker.read(&mut [0])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let mut client = TcpStream::connect(running.address).await.unwrap();
    let (mut broker, _) = listener.accept().await.unwrap();
    // Something must have gone through, or the reset may come while the proxy still dials.
    client.write_all(&request(2, 1, 1, b"")).await.unwrap();
    read(&mut broker, 16).await;
    socket2::SockRef::from(&broker).set_linger(Some(Duration::ZERO)).unwrap();
    drop(broker);
    let error = tokio::time::timeout(PATIENCE, client.read(&mut [0])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = FrontConfig {
        listen: taken.local_addr().unwrap().to_string(),
        advertise: Advertise::Ports { host: "127.0.0.1".into(), ports: 0..=0 },
        tls: None,
        bootstrap_servers: vec!["localhost:9092".to_owned()],
        dialer: Dialer::plain(),
        settings: settings(),
    };
    let bind = |config| Front::bind(config, vec![], Arc::new(Capture::new(0)), Arc::default());
    let error = bind(config.clone()).unwrap_err();
    assert!(error.to_string().contains(&config.listen), "{error}");
    let config = FrontConfig { bootstrap_servers: vec!["localhost".to_owned()], ..config };
    assert!(matches!(bind(config), Err(FrontError::BootstrapServer(_))));
}
