//! The queue, clients that leave, retries that join, deadlines, panics.

use crate::{
    client::{Answer, ask, connect, draw, get, http2_on, post, send2, socket_drawing},
    fake::Fixture,
};
use std::{net::SocketAddr, time::Duration};
use tokio::task::JoinHandle;

const WAIT: &str = "{\"script\": \"wait\"}";

fn drawing(address: SocketAddr, body: &str) -> JoinHandle<Answer> {
    let body = body.to_owned();
    tokio::spawn(async move { draw(address, &body).await })
}

/// A figure without labels from the metrics page.
async fn figure(address: SocketAddr, name: &str) -> f64 {
    let page = ask(address, get("/metrics")).await;
    let line = page.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {}", page.text())).parse().expect("a number")
}

/// Waits until a figure of the metrics page has this value.
async fn until(address: SocketAddr, name: &str, value: f64) {
    let begun = std::time::Instant::now();
    while figure(address, name).await != value {
        assert!(begun.elapsed() < crate::fake::PATIENCE, "{name} never was {value}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn queue_is(address: SocketAddr, length: usize) {
    until(address, "pentimento_queue_length", length as f64).await;
}

/// Waits until the server has noticed that a client left.
async fn somebody_left(fixture: &Fixture) {
    let begun = std::time::Instant::now();
    while !ask(fixture.address, get("/metrics")).await.text().contains("status=\"499\"") {
        assert!(begun.elapsed() < crate::fake::PATIENCE, "nobody left");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_full_queue_answers_at_once_and_the_server_stays_healthy() {
    let fixture = Fixture::with(|config| config.queue_places = 2).await;
    let mut served = vec![drawing(fixture.address, WAIT)];
    fixture.generator.begun(1).await;
    for length in 1..=2 {
        served.push(drawing(fixture.address, WAIT));
        queue_is(fixture.address, length).await;
    }
    for _ in 0..3 {
        let refused = draw(fixture.address, WAIT).await;
        assert_eq!((refused.status, refused.headers["x-fake-error"].as_bytes()), (429, &b"Throttled"[..]));
    }
    for page in ["/healthz", "/readyz"] {
        assert_eq!(ask(fixture.address, get(page)).await.status, 200);
    }
    fixture.generator.open();
    for answer in served {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
    assert_eq!(draw(fixture.address, "{}").await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_running_job_along() {
    let fixture = Fixture::start().await;
    let client = socket_drawing(fixture.address, WAIT).await;
    fixture.generator.begun(1).await;
    drop(client);
    fixture.generator.cancelled(1).await;
    assert_eq!(draw(fixture.address, "{}").await.status, 200);
}

#[tokio::test]
async fn an_http2_stream_that_is_reset_takes_its_job_along_and_no_other() {
    let fixture = Fixture::start().await;
    let mut sender = http2_on(connect(fixture.address).await).await;
    let reset = tokio::spawn(sender.send_request(post("http://localhost/fake/x", WAIT)));
    fixture.generator.begun(1).await;
    reset.abort();
    fixture.generator.cancelled(1).await;
    let answer = send2(&mut sender, post("http://localhost/fake/x", "{}")).await;
    assert_eq!(answer.status, 200, "the connection goes on");
}

#[tokio::test]
async fn an_http2_connection_that_closes_takes_its_jobs_along() {
    let fixture = Fixture::start().await;
    let (client, server) = (connect(fixture.address).await, fixture.address);
    let cord = socket2::SockRef::from(&client).try_clone().expect("a second handle");
    let mut sender = http2_on(client).await;
    let requests: Vec<_> =
        (0..3).map(|_| tokio::spawn(sender.send_request(post("http://localhost/fake/x", WAIT)))).collect();
    queue_is(server, 2).await;
    cord.shutdown(std::net::Shutdown::Both).expect("the cord is pulled");
    fixture.generator.cancelled(1).await;
    queue_is(server, 0).await;
    drop(requests);
    assert_eq!(fixture.generator.counts().begun, 1, "queued jobs never began");
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_in_the_queue_back() {
    let fixture = Fixture::with(|config| config.queue_places = 1).await;
    let running = drawing(fixture.address, WAIT);
    fixture.generator.begun(1).await;
    let queued = socket_drawing(fixture.address, WAIT).await;
    queue_is(fixture.address, 1).await;
    assert_eq!(draw(fixture.address, "{}").await.status, 429);
    drop(queued);
    queue_is(fixture.address, 0).await;
    fixture.generator.open();
    assert_eq!(running.await.expect("no panic").status, 200);
    assert_eq!(fixture.generator.counts().begun, 1, "the job that was left never began");
}

#[tokio::test]
async fn the_same_work_is_done_once_for_all_who_ask() {
    let fixture = Fixture::start().await;
    let body = "{\"script\": \"wait\", \"key\": \"a\"}";
    let first = drawing(fixture.address, body);
    fixture.generator.begun(1).await;
    let second = drawing(fixture.address, body);
    until(fixture.address, "pentimento_coalesced_total", 1.0).await;
    let other = drawing(fixture.address, "{\"script\": \"wait\", \"key\": \"b\"}");
    queue_is(fixture.address, 1).await;
    fixture.generator.open();
    let [first, second, other] =
        [first.await, second.await, other.await].map(|answer| answer.expect("no panic"));
    assert_eq!((first.status, second.status, other.status), (200, 200, 200));
    // Their seeds were drawn, so equal ones mean the same job.
    assert_eq!(first.json(), second.json());
    assert_eq!(fixture.generator.counts().drawn, 2);
}

#[tokio::test]
async fn a_shared_job_goes_on_until_the_last_client_leaves() {
    let fixture = Fixture::start().await;
    let body = "{\"script\": \"wait\", \"key\": \"a\"}";
    let first = socket_drawing(fixture.address, body).await;
    fixture.generator.begun(1).await;
    let second = socket_drawing(fixture.address, body).await;
    until(fixture.address, "pentimento_coalesced_total", 1.0).await;
    drop(first);
    somebody_left(&fixture).await;
    assert_eq!(fixture.generator.counts().cancelled, 0);
    drop(second);
    fixture.generator.cancelled(1).await;
}

#[tokio::test]
async fn a_retry_finds_its_job_still_running() {
    let fixture = Fixture::with(|config| config.retry_grace = Duration::from_secs(600)).await;
    let body = "{\"script\": \"wait\", \"key\": \"a\", \"retry\": true}";
    let first = socket_drawing(fixture.address, body).await;
    fixture.generator.begun(1).await;
    drop(first);
    let retry = drawing(fixture.address, body);
    until(fixture.address, "pentimento_coalesced_total", 1.0).await;
    fixture.generator.open();
    assert_eq!(retry.await.expect("no panic").status, 200);
    assert_eq!(fixture.generator.counts().begun, 1);
}

#[tokio::test]
async fn a_picture_that_was_finished_meanwhile_waits_for_the_retry() {
    let fixture = Fixture::with(|config| config.retry_grace = Duration::from_secs(600)).await;
    let body = "{\"script\": \"wait\", \"key\": \"a\", \"retry\": true}";
    let first = socket_drawing(fixture.address, body).await;
    fixture.generator.begun(1).await;
    drop(first);
    somebody_left(&fixture).await;
    fixture.generator.open();
    until(fixture.address, "pentimento_jobs_running", 0.0).await;
    assert_eq!(draw(fixture.address, body).await.status, 200);
    assert_eq!(fixture.generator.counts().begun, 1);
}

#[tokio::test]
async fn a_client_that_does_not_return_loses_its_job_after_the_grace() {
    let fixture = Fixture::start().await;
    let body = "{\"script\": \"wait\", \"key\": \"a\", \"retry\": true}";
    for round in 1..=2 {
        let client = socket_drawing(fixture.address, body).await;
        fixture.generator.begun(round).await;
        drop(client);
        fixture.generator.cancelled(round).await;
    }
}

#[tokio::test]
async fn running_and_queued_jobs_meet_their_deadline() {
    let fixture = Fixture::with(|config| config.deadline = Some(Duration::from_millis(300))).await;
    let running = drawing(fixture.address, WAIT);
    fixture.generator.begun(1).await;
    let queued = drawing(fixture.address, WAIT);
    for answer in [running, queued] {
        let answer = answer.await.expect("no panic");
        assert_eq!((answer.status, answer.headers["x-fake-error"].as_bytes()), (408, &b"Timeout"[..]));
    }
    fixture.generator.cancelled(1).await;
    assert_eq!(draw(fixture.address, "{}").await.status, 200, "the worker is free again");
}

#[tokio::test]
async fn a_panic_fails_its_own_job_and_the_next_one_is_drawn() {
    let fixture = Fixture::start().await;
    for _ in 0..3 {
        let panicked = draw(fixture.address, "{\"script\": \"panic\"}").await;
        assert_eq!((panicked.status, panicked.json()["message"].as_str()), (500, Some("Internal")));
        assert_eq!(draw(fixture.address, "{}").await.status, 200);
    }
    assert_eq!(figure(fixture.address, "pentimento_panics_total").await, 3.0);
}

#[tokio::test]
async fn errors_of_the_generator_reach_the_protocol() {
    let fixture = Fixture::start().await;
    assert_eq!(draw(fixture.address, "{\"script\": \"fail\"}").await.status, 500);
    assert_eq!(draw(fixture.address, "{\"script\": \"no such script\"}").await.status, 400);
}

#[tokio::test]
async fn seeds_are_kept_or_drawn() {
    let fixture = Fixture::start().await;
    assert_eq!(draw(fixture.address, "{\"seed\": 0}").await.json()["seed"], 0);
    let mut drawn = vec![];
    for _ in 0..20 {
        drawn.push(draw(fixture.address, "{}").await.json()["seed"].as_u64().expect("a seed"));
    }
    assert!(drawn.iter().all(|seed| (1..=1000).contains(seed)), "{drawn:?}");
    drawn.dedup();
    assert!(drawn.len() > 10, "{drawn:?}");
}

#[tokio::test]
async fn many_clients_at_once_each_get_their_own_picture() {
    let fixture = Fixture::with(|config| config.queue_places = 64).await;
    let asked: Vec<_> =
        (0..48).map(|seed| drawing(fixture.address, &format!("{{\"seed\": {seed}}}"))).collect();
    for (seed, answer) in asked.into_iter().enumerate() {
        let answer = answer.await.expect("no panic");
        assert_eq!((answer.status, answer.json()["seed"].as_u64()), (200, Some(seed as u64)));
    }
}

#[tokio::test]
async fn what_the_generator_would_not_take_up_is_refused_before_it_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = Fixture::with(|config| config.data_dir = Some(folder.path().to_owned())).await;
    let running = socket_drawing(fixture.address, "{\"script\": \"wait\"}").await;
    fixture.generator.begun(1).await;
    for submit in [false, true] {
        let body = format!("{{\"script\": \"too-large\", \"submit\": {submit}}}");
        assert_eq!(draw(fixture.address, &body).await.status, 400);
        let body = format!("{{\"script\": \"admit-panic\", \"submit\": {submit}}}");
        assert_eq!(draw(fixture.address, &body).await.status, 500);
    }
    assert_eq!(fixture.generator.counts().begun, 1);
    drop(running);
}
