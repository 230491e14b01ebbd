//! Answers that are begun early.

use crate::{
    client::{Answer, connect, draw, http1_on, http2_on, post, send1, socket_drawing, soon, whole},
    fake::Fixture,
};
use http_body_util::BodyExt;
use pentimento_server::KeepAliveTiming;
use std::time::Duration;

const WAIT: &str = "{\"script\": \"wait\", \"seed\": 7}";

async fn eager() -> Fixture {
    let timing = KeepAliveTiming { after: Duration::from_millis(20), every: Duration::from_millis(20) };
    Fixture::with(|config| config.keep_alive = Some(timing)).await
}

#[tokio::test]
async fn a_slow_answer_is_begun_early_and_ends_as_usual() {
    let fixture = eager().await;
    let mut first = http1_on(connect(fixture.address).await).await;
    let mut second = http2_on(connect(fixture.address).await).await;
    let mut one = soon(first.send_request(post("/fake/x", WAIT))).await.expect("a head");
    let mut two = soon(second.send_request(post("http://localhost/fake/x", WAIT))).await.expect("a head");
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (200, 200));
    assert_eq!(fixture.generator.counts().drawn, 0, "the heads came before the pictures");
    for response in [&mut one, &mut two] {
        for _ in 0..3 {
            let beat = soon(response.frame()).await.expect("a frame").expect("a beat");
            assert!(beat.into_data().expect("data").iter().all(|byte| *byte == b' '));
        }
    }
    fixture.generator.open();
    for response in [one, two] {
        assert_eq!(whole(response).await.json()["seed"], 7);
    }
}

#[tokio::test]
async fn a_fast_answer_keeps_its_own_status_and_length() {
    let timing = KeepAliveTiming { after: Duration::from_secs(600), every: Duration::from_secs(1) };
    let fixture = Fixture::with(|config| config.keep_alive = Some(timing)).await;
    let drawn = draw(fixture.address, "{}").await;
    assert_eq!((drawn.status, drawn.headers.contains_key("content-length")), (200, true));
    assert_eq!(draw(fixture.address, "{\"script\": \"fail\"}").await.status, 500);
}

#[tokio::test]
async fn a_late_failure_is_told_in_the_body_and_the_connection_lives_on() {
    let timing = KeepAliveTiming { after: Duration::ZERO, every: Duration::from_millis(20) };
    let fixture = Fixture::with(|config| {
        config.keep_alive = Some(timing);
        config.deadline = Some(Duration::from_millis(300));
    })
    .await;
    let mut sender = http1_on(connect(fixture.address).await).await;
    let late: Answer = send1(&mut sender, post("/fake/x", WAIT)).await;
    assert_eq!((late.status, late.json()["late"].as_str()), (200, Some("DeadlineExceeded")));
    assert!(late.text().starts_with(' '));
    assert_eq!(send1(&mut sender, post("/fake/x", "{}")).await.status, 200);
}

#[tokio::test]
async fn what_has_no_room_for_beats_is_answered_as_usual() {
    let fixture = eager().await;
    let address = fixture.address;
    let bare = tokio::spawn(async move { draw(address, "{\"script\": \"wait\", \"bare\": true}").await });
    fixture.generator.begun(1).await;
    fixture.generator.open();
    let answer = bare.await.expect("no panic");
    assert!(answer.body.starts_with(b"\x89PNG") && answer.headers.contains_key("content-length"));
}

#[tokio::test]
async fn a_client_that_leaves_between_beats_takes_its_job_along() {
    let fixture = eager().await;
    let mut client = socket_drawing(fixture.address, WAIT).await;
    let mut head = [0; 12];
    soon(tokio::io::AsyncReadExt::read_exact(&mut client, &mut head)).await.expect("a head");
    drop(client);
    fixture.generator.cancelled(1).await;

    let mut sender = http2_on(connect(fixture.address).await).await;
    let response = soon(sender.send_request(post("http://localhost/fake/x", WAIT))).await.expect("a head");
    drop(response);
    fixture.generator.cancelled(2).await;
}
