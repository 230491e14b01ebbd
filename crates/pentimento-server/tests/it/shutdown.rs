//! An end in time, whatever peers do.

use crate::{
    client::{connect, draw, get, http1_on, http2_on, post, rest, send1, send2, socket_with},
    fake::{Fixture, eventually},
};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

const WAIT: &str = "{\"script\": \"wait\"}";

#[tokio::test]
async fn an_idle_server_ends_at_once_and_frees_its_port() {
    let mut fixture = Fixture::start().await;
    let (address, begun) = (fixture.address, Instant::now());
    assert_eq!(draw(address, "{}").await.status, 200);
    fixture.signal();
    fixture.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(6), "it waited for nothing");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_running_job_is_finished_and_queued_ones_are_answered() {
    let mut fixture = Fixture::start().await;
    let address = fixture.address;
    let running = tokio::spawn(async move { draw(address, WAIT).await });
    fixture.generator.begun(1).await;
    let queued = tokio::spawn(async move { draw(address, WAIT).await });
    // Two requests on one HTTP/2 connection tell what the server says of itself while it ends.
    let mut sender = http2_on(connect(address).await).await;
    assert_eq!(send2(&mut sender, get("http://localhost/readyz")).await.status, 200);
    eventually_shown(&fixture, 2).await;
    fixture.signal();
    assert_eq!(queued.await.expect("no panic").status, 503);
    assert!(!running.is_finished());
    fixture.generator.open();
    assert_eq!(running.await.expect("no panic").status, 200);
    fixture.ended().await;
}

/// Waits until the protocol was shown so many requests.
async fn eventually_shown(fixture: &Fixture, count: usize) {
    eventually("requests arrive", || fixture.protocol.shown() >= count).await;
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_broken_off_and_answered() {
    let mut fixture = Fixture::with(|config| config.shutdown_timeout = Duration::from_secs(2)).await;
    let address = fixture.address;
    let running = tokio::spawn(async move { draw(address, WAIT).await });
    fixture.generator.begun(1).await;
    fixture.signal();
    let answer = running.await.expect("no panic");
    assert_eq!((answer.status, answer.headers["x-fake-error"].as_bytes()), (503, &b"Unavailable"[..]));
    let generator = fixture.generator.clone();
    fixture.ended().await;
    assert_eq!(generator.counts().cancelled, 1);
}

#[tokio::test]
async fn readiness_ends_with_the_signal_but_health_does_not() {
    let mut fixture = Fixture::start().await;
    let address = fixture.address;
    // The job keeps the connection open, so that it can still be asked while the server ends.
    let mut sender = http2_on(connect(address).await).await;
    let running = tokio::spawn(sender.send_request(post("http://localhost/fake/x", WAIT)));
    fixture.generator.begun(1).await;
    let requests = sender.clone();
    let states = tokio::spawn(readiness(requests));
    fixture.signal();
    let states = states.await.expect("no panic");
    assert!(states.iter().all(|state| [200, 503].contains(state)), "{states:?}");
    fixture.generator.open();
    assert_eq!(running.await.expect("no panic").expect("an answer").status(), 200);
    fixture.ended().await;
}

/// Asks whether the server is ready until it says no, or takes no more requests on this connection.
async fn readiness(mut sender: crate::client::Sender2) -> Vec<u16> {
    let mut states = vec![];
    while states.last() != Some(&503) {
        let asked = crate::client::soon(sender.send_request(get("http://localhost/readyz"))).await;
        let Ok(response) = asked else { break };
        states.push(response.status().as_u16());
        let healthy = crate::client::soon(sender.send_request(get("http://localhost/healthz"))).await;
        let Ok(healthy) = healthy else { break };
        assert_eq!(healthy.status(), 200);
    }
    states
}

#[tokio::test]
async fn half_open_connections_do_not_hold_the_end_up() {
    let mut fixture = Fixture::with(|config| config.shutdown_timeout = Duration::from_secs(4)).await;
    let address = fixture.address;
    let mut idle1 = http1_on(connect(address).await).await;
    let mut idle2 = http2_on(connect(address).await).await;
    assert_eq!(send1(&mut idle1, get("/healthz")).await.status, 200);
    assert_eq!(send2(&mut idle2, get("http://localhost/healthz")).await.status, 200);
    let half_said = [
        "",
        "POST /fa",
        "POST /fake/x HTTP/1.1\r\nhost: x\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "PRI * HTT",
    ];
    let mut sockets = vec![];
    for said in half_said {
        sockets.push(socket_with(address, said).await);
    }
    let half_body = "POST /fake/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{\"x\"";
    let mut half_body = socket_with(address, half_body).await;
    // All were accepted, in their order, before this one is answered.
    assert_eq!(draw(address, "{}").await.status, 200);

    let begun = Instant::now();
    fixture.signal();
    let answer = rest(&mut half_body).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    fixture.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    for mut socket in sockets {
        rest(&mut socket).await;
    }
}

#[tokio::test]
async fn a_generator_that_does_not_return_cannot_hold_the_end_up() {
    struct Stuck(std::sync::mpsc::Sender<()>, std::sync::Mutex<std::sync::mpsc::Receiver<()>>);
    impl pentimento_request::Generator for Stuck {
        fn generate(
            &self,
            _: &pentimento_request::GenerationRequest,
            _: &mut dyn pentimento_request::Progress,
        ) -> Result<pentimento_request::GeneratedImage, pentimento_request::GenerateError> {
            self.0.send(()).expect("the test listens");
            let released = self.1.lock().expect("not poisoned").recv();
            Err(pentimento_request::GenerateError::new(
                pentimento_request::ErrorKind::Internal,
                format!("{released:?}"),
            ))
        }
    }
    let (begin, begun) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel();
    let mut config = pentimento_server::ServerConfig::new(([127, 0, 0, 1], 0).into());
    config.shutdown_timeout = Duration::from_secs(1);
    let server = pentimento_server::Server::bind(config).await.expect("a free port");
    let address = server.local_addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let generator = std::sync::Arc::new(Stuck(begin, std::sync::Mutex::new(released)));
    let protocol = std::sync::Arc::new(crate::fake::FakeProtocol::default());
    let running = tokio::spawn(server.run(vec![protocol], generator, async { drop(stopped.await) }));
    let answer = tokio::spawn(async move { draw(address, WAIT).await });
    let begun = tokio::task::spawn_blocking(move || begun.recv_timeout(crate::fake::PATIENCE));
    begun.await.expect("no panic").expect("the job begins");
    drop(stop);
    assert_eq!(answer.await.expect("no panic").status, 503);
    crate::client::soon(running).await.expect("no panic").expect("ends well");
    drop(release);
}
