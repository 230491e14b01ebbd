//! What single callers may ask for, and turns between them.

use crate::{
    client::{Answer, ask, draw, get},
    fake::{Fixture, PATIENCE},
};
use pentimento_server::{Quota, Quotas};
use serde_json::json;
use std::{
    collections::HashMap,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

fn drawing(address: SocketAddr, caller: &str, seed: u64) -> JoinHandle<Answer> {
    let body = json!({"script": "wait", "caller": caller, "seed": seed}).to_string();
    tokio::spawn(async move { draw(address, &body).await })
}

async fn asked(address: SocketAddr, caller: &str) -> (u16, String) {
    let answer = draw(address, &json!({"caller": caller}).to_string()).await;
    let name = answer.headers.get("x-fake-error").map_or("none", |name| name.to_str().expect("text"));
    (answer.status, name.to_owned())
}

async fn queue_is(address: SocketAddr, length: usize) {
    let begun = Instant::now();
    let line = format!("pentimento_queue_length {length}\n");
    while !ask(address, get("/metrics")).await.text().contains(&line) {
        assert!(begun.elapsed() < PATIENCE, "the queue never was {length}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn rates_and_jobs_at_once_are_told_apart_and_a_new_rule_holds_at_once() {
    let rate = Quota { per_minute: NonZeroU32::new(1), ..Quota::default() };
    let few = Quota { at_once: NonZeroUsize::new(1), ..Quota::default() };
    let of = HashMap::from([("rate".to_owned(), rate), ("few".to_owned(), few)]);
    let fixture = Fixture::with(|config| config.quotas = Quotas { of, ..Quotas::default() }).await;
    let address = fixture.address;
    assert_eq!(asked(address, "rate").await.0, 200);
    assert_eq!(asked(address, "rate").await, (429, "TooOften".to_owned()));
    let running = drawing(address, "few", 1);
    fixture.generator.begun(2).await;
    assert_eq!(asked(address, "few").await, (429, "Throttled".to_owned()));
    let other = drawing(address, "other", 2);
    queue_is(address, 1).await;

    fixture.controls.replace_quotas(Quotas::default());
    fixture.generator.open();
    let begun = Instant::now();
    while asked(address, "rate").await.0 != 200 {
        assert!(begun.elapsed() < PATIENCE, "the new rule never held");
    }
    for answer in [running, other] {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
}

#[tokio::test]
async fn callers_take_turns_however_many_jobs_each_has() {
    let fixture = Fixture::start().await;
    let address = fixture.address;
    let running = drawing(address, "many", 0);
    fixture.generator.begun(1).await;
    let mut many = vec![];
    for place in 1..=5 {
        many.push(drawing(address, "many", place));
        queue_is(address, place as usize).await;
    }
    let one = drawing(address, "one", 77);
    queue_is(address, 6).await;
    fixture.generator.open();
    for answer in many.into_iter().chain([running, one]) {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
    let order = fixture.generator.seeds();
    assert!(order.iter().position(|seed| *seed == 77) <= Some(2), "{order:?}");
}
