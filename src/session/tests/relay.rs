use std::sync::Arc;

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::error::SessionError;
use super::super::in_flight::InFlight;
use super::super::relay::{Ending, Shared, relay};
use super::super::watch::Activity;
use super::*;
use crate::wire::frame::BadInput;

const IN_FLIGHT_MAX: usize = 1024;

struct Session {
    client: DuplexStream,
    broker: DuplexStream,
    shared: Arc<Shared>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<Result<Ending, SessionError>>,
}

fn session() -> Session {
    session_with(shared())
}

fn session_with(shared: Arc<Shared>) -> Session {
    let (client, client_side) = duplex(1 << 20);
    let (broker, broker_side) = duplex(1 << 20);
    let (shutdown, stop) = watch::channel(false);
    let context = Arc::clone(&shared);
    let task = tokio::spawn(async move {
        let in_flight = InFlight::new(IN_FLIGHT_MAX, Activity::default());
        relay(&context, client_side, broker_side, 1, &in_flight, stop).await
    });
    Session { client, broker, shared, shutdown, task }
}

impl Session {
    async fn ended(self) -> Result<Ending, SessionError> {
        // Both ends stay open until the session has ended by itself.
        tokio::time::timeout(PATIENCE, self.task).await.expect("the session goes on").expect("the session panicked")
    }
}

#[tokio::test]
async fn apis_and_versions_that_nobody_knows_pass_byte_for_byte() {
    let mut session = session();
    let asked = request(999, 77, -5, b"whatever follows");
    session.client.write_all(&asked).await.unwrap();
    assert_eq!(read(&mut session.broker, asked.len()).await, asked);
    let answered = answer(-5, b"an answer of some shape");
    session.broker.write_all(&answered).await.unwrap();
    assert_eq!(read(&mut session.client, answered.len()).await, answered);
    assert_eq!(session.shared.metrics.received_bytes(), asked.len() as u64);
    assert_eq!(session.shared.metrics.sent_bytes(), answered.len() as u64);
}

#[tokio::test]
async fn pipelined_requests_and_answers_pass_whatever_the_chunks() {
    let mut asked = Vec::new();
    let mut answered = Vec::new();
    let mut expected = Vec::new();
    for id in 0..5 {
        asked.extend(request(2, 1, id, b"list offsets"));
        asked.extend(produce(100 + id, 0));
        asked.extend(produce(200 + id, 1));
        asked.extend(request(3, 0, 300 + id, &[0, 0, 0, 0]));
        for (to, host, port) in [(&mut answered, "kafka", 5), (&mut expected, "proxy.example", 0)] {
            to.extend(answer(id, b"offsets"));
            to.extend(answer(200 + id, &[0; 8]));
            to.extend(metadata(300 + id, &[(7, host, port)], b"topics"));
        }
    }
    for chunk in [1, 2, 3, 5, 7, 11, 13, 50, 100_000] {
        let mut session = session();
        session.shared.brokers.learn(7, "kafka", 5);
        let port = session.shared.brokers.route(7).unwrap().advertised_port.unwrap();
        let mut expected = expected.clone();
        let told = metadata(0, &[(7, "proxy.example", 0)], b"")[8..].to_vec();
        let told_with_port = metadata(0, &[(7, "proxy.example", port)], b"")[8..].to_vec();
        for at in 0..expected.len() - told.len() {
            if expected[at..].starts_with(&told) {
                expected[at..at + told.len()].copy_from_slice(&told_with_port);
            }
        }
        for part in asked.chunks(chunk) {
            session.client.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(read(&mut session.broker, asked.len()).await == asked, "requests in chunks of {chunk}");
        for part in answered.chunks(chunk) {
            session.broker.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(read(&mut session.client, expected.len()).await == expected, "answers in chunks of {chunk}");
    }
}

#[tokio::test]
async fn an_answer_out_of_step_closes_with_both_numbers() {
    let mut session = session();
    session.client.write_all(&request(2, 1, 41, b"")).await.unwrap();
    read(&mut session.broker, 16).await;
    session.broker.write_all(&answer(42, b"")).await.unwrap();
    let error = session.ended().await.unwrap_err();
    assert_eq!(error.to_string(), "the local broker answered correlation id 42 where 41 (ListOffsets) was expected");
    assert!(!error.is_expected());
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_closes() {
    let mut session = session();
    // Acks 0: no answer is due.
    session.client.write_all(&produce(41, 0)).await.unwrap();
    read(&mut session.broker, 16).await;
    session.broker.write_all(&answer(41, b"")).await.unwrap();
    let error = session.ended().await.unwrap_err();
    assert!(matches!(error, SessionError::NotAsked { answered: 41 }), "{error}");
}

#[tokio::test]
async fn what_is_no_kafka_request_closes_with_its_reason() {
    let hello: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let cases: [(&[u8], BadInput); 8] = [
        (hello, BadInput::TlsClientHello),
        (b"GET / HTTP/1.1\r\n\r\n", BadInput::HttpRequest),
        (b"POST", BadInput::HttpRequest),
        (&[0, 0, 0, 7, 0, 3, 0], BadInput::FrameTooShort),
        (&[0x7f, 0xff, 0xff, 0xff], BadInput::FrameTooLong),
        (&[0xff, 0xff, 0xff, 0xff], BadInput::NegativeLength),
        (&[0, 0, 0, 12, 0, 3, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0], BadInput::UnsupportedVersion),
        (&[0, 0, 0, 12, 0, 0, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 0], BadInput::UnsupportedVersion),
    ];
    for (bytes, expected) in cases {
        let mut session = session();
        session.client.write_all(bytes).await.unwrap();
        match session.ended().await {
            Err(SessionError::BadInput(bad)) => assert_eq!(bad, expected),
            other => panic!("{expected:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn requests_in_front_of_bad_input_still_reach_the_broker() {
    let mut session = session();
    let mut sent = request(2, 1, 1, b"fine");
    let fine = sent.len();
    sent.extend(b"GET / HTTP/1.1");
    session.client.write_all(&sent).await.unwrap();
    assert_eq!(read_to_end(&mut session.broker).await, &sent[..fine]);
    assert!(matches!(session.ended().await, Err(SessionError::BadInput(BadInput::FrameTooLong))));
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_answers() {
    let mut session = session();
    let asked = request(2, 1, 1, b"");
    session.client.write_all(&asked).await.unwrap();
    session.client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut session.broker).await, asked);
    let answered = answer(1, b"late");
    session.broker.write_all(&answered).await.unwrap();
    assert_eq!(read(&mut session.client, answered.len()).await, answered);
    session.broker.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut session.client).await, b"");
    assert_eq!(session.ended().await.unwrap(), Ending::ClientClosed);
}

#[tokio::test]
async fn a_broker_that_closes_closes_the_client() {
    let mut session = session();
    session.broker.write_all(&[0, 0]).await.unwrap();
    session.broker.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut session.client).await, b"");
    session.client.shutdown().await.unwrap();
    assert_eq!(session.ended().await.unwrap(), Ending::BrokerClosed);
}

#[tokio::test]
async fn an_api_versions_request_that_is_too_new_gets_the_answer_of_kip_511() {
    let mut session = session();
    let asked = request(18, 99, 5, b"\x05rust\x061.88\0");
    session.client.write_all(&asked).await.unwrap();
    let mut expected = asked.clone();
    expected[6..8].copy_from_slice(&i16::MAX.to_be_bytes());
    assert_eq!(read(&mut session.broker, asked.len()).await, expected);
    // Version 0: error 35, one entry: ApiVersions, from 0 to a version that we don't have.
    session.broker.write_all(&answer(5, &[0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 9])).await.unwrap();
    let expected = answer(5, &[0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]);
    assert_eq!(read(&mut session.client, expected.len()).await, expected);
}

#[tokio::test]
async fn raw_sasl_tokens_pass_after_the_old_handshake() {
    let mut session = session();
    let handshake = request(17, 0, 1, b"\0\x05PLAIN");
    session.client.write_all(&handshake).await.unwrap();
    assert_eq!(read(&mut session.broker, handshake.len()).await, handshake);
    session.broker.write_all(&answer(1, &[0, 0, 0, 0, 0, 0])).await.unwrap();
    read(&mut session.client, 14).await;
    let token = frame(b"\0user\0password");
    session.client.write_all(&token).await.unwrap();
    assert_eq!(read(&mut session.broker, token.len()).await, token);
    session.broker.write_all(&frame(b"")).await.unwrap();
    assert_eq!(read(&mut session.client, 4).await, [0; 4]);
    // And then requests again, which are held to their frames.
    let asked = request(3, 0, 2, &[0, 0, 0, 0]);
    session.client.write_all(&asked).await.unwrap();
    assert_eq!(read(&mut session.broker, asked.len()).await, asked);
    session.broker.write_all(&metadata(2, &[(3, "kafka", 9)], b"")).await.unwrap();
    let told = metadata(2, &[(3, "proxy.example", 0)], b"");
    let answered = read(&mut session.client, told.len()).await;
    assert_eq!(answered[..told.len() - 2], told[..told.len() - 2]);
    session.client.write_all(&[0, 0, 0, 1, 0]).await.unwrap();
    assert!(matches!(session.ended().await, Err(SessionError::BadInput(BadInput::FrameTooShort))));
}

#[tokio::test]
async fn a_brokers_port_is_open_before_a_client_is_told_of_it() {
    let mut session = session();
    session.client.write_all(&request(3, 0, 1, &[0, 0, 0, 0])).await.unwrap();
    read(&mut session.broker, 20).await;
    let topics = vec![9; 3_000_000];
    let answered = metadata(1, &[(1, "a", 1), (2, "b.example.org", 2)], &topics);
    let (broker, client) = (&mut session.broker, &mut session.client);
    let (written, told) = tokio::join!(broker.write_all(&answered), async {
        let length = i32::from_be_bytes(read(client, 4).await.try_into().unwrap());
        read(client, length as usize).await
    });
    written.unwrap();
    let ports: Vec<u16> =
        [1, 2].iter().map(|id| session.shared.brokers.route(*id).unwrap().advertised_port.unwrap()).collect();
    let expected = metadata(1, &[(1, "proxy.example", ports[0]), (2, "proxy.example", ports[1])], &topics);
    assert!(told == expected[4..]);
    for port in ports {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_with_too_many_requests_waits_and_loses_none() {
    let mut session = session();
    let count = IN_FLIGHT_MAX as i32 + 500;
    let asked: Vec<u8> = (0..count).flat_map(|id| request(2, 1, id, b"")).collect();
    let size = asked.len() / count as usize;
    session.client.write_all(&asked).await.unwrap();
    assert_eq!(read(&mut session.broker, IN_FLIGHT_MAX * size).await, asked[..IN_FLIGHT_MAX * size]);
    let more = tokio::time::timeout(Duration::from_millis(50), read(&mut session.broker, 1)).await;
    assert!(more.is_err(), "the queue has no limit");
    let answered: Vec<u8> = (0..count).flat_map(|id| answer(id, b"x")).collect();
    let (first, last) = answered.split_at(IN_FLIGHT_MAX * 9);
    session.broker.write_all(first).await.unwrap();
    assert_eq!(read(&mut session.broker, 500 * size).await, asked[IN_FLIGHT_MAX * size..]);
    session.broker.write_all(last).await.unwrap();
    assert_eq!(read(&mut session.client, answered.len()).await, answered);
}

#[tokio::test]
async fn a_shutdown_waits_for_the_answers_that_are_due_and_no_longer() {
    let mut session = session();
    session.client.write_all(&request(2, 1, 1, b"")).await.unwrap();
    read(&mut session.broker, 16).await;
    session.shutdown.send_replace(true);
    tokio::task::yield_now().await;
    session.broker.write_all(&answer(1, b"x")).await.unwrap();
    assert_eq!(read_to_end(&mut session.client).await, answer(1, b"x"));
    assert_eq!(session.ended().await.unwrap(), Ending::Drained);

    let session = super::relay::session();
    session.shutdown.send_replace(true);
    assert_eq!(session.ended().await.unwrap(), Ending::Drained);
}

#[tokio::test]
async fn an_idle_session_holds_no_buffer() {
    let shared = shared();
    let pools = Arc::strong_count(&shared.buffers);
    let mut sessions: Vec<_> = (0..20).map(|_| session_with(Arc::clone(&shared))).collect();
    for session in &mut sessions {
        session.client.write_all(&request(2, 1, 1, b"")).await.unwrap();
        read(&mut session.broker, 16).await;
        session.broker.write_all(&answer(1, b"x")).await.unwrap();
        read(&mut session.client, 9).await;
    }
    for _ in 0..1000 {
        if Arc::strong_count(&shared.buffers) == pools {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{} buffers are held", Arc::strong_count(&shared.buffers) - pools);
}

#[tokio::test]
async fn an_answer_that_lies_about_its_brokers_closes() {
    let mut session = session();
    session.client.write_all(&request(3, 0, 1, &[0, 0, 0, 0])).await.unwrap();
    read(&mut session.broker, 20).await;
    session.broker.write_all(&answer(1, &[0x7f, 0xff, 0xff, 0xff])).await.unwrap();
    let error = session.ended().await.unwrap_err();
    assert_eq!(error.reason(), "answer_malformed");
}
