//! Results in an S3-compatible store: moto's server, a process of its own, where it is installed.
//!
//! `clients/requirements.txt` brings it; it is looked for there and on the path. Without it these tests say that they were
//! skipped.

use crate::{
    client::{ask, draw, get, soon},
    fake::{Fixture, PATIENCE, eventually},
};
use http_body_util::Full;
use hyper::Request;
use pentimento_server::{ResultStore, S3Store};
use serde_json::json;
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

/// With this variable a missing store is a failure: `cargo xtask test` sets it once it has brought one.
const NEEDED: &str = "PENTIMENTO_STORE_NEEDED";

struct Moto {
    child: Child,
    address: SocketAddr,
}

impl Moto {
    /// Starts it with an empty bucket; `None` where it is not installed.
    async fn start() -> Option<Self> {
        let Some(program) = program() else {
            assert!(std::env::var_os(NEEDED).is_none(), "there is no moto_server, and {NEEDED} asks for it");
            println!("skipped: there is no moto_server (clients/requirements.txt brings it)");
            return None;
        };
        let port =
            TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it has one").port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let moto = Self { child, address };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < 3 * PATIENCE, "moto does not listen");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let bucket = Request::put("/pictures").header("host", "s3.amazonaws.com");
        let made = ask(address, bucket.body(Full::default()).expect("a request")).await;
        assert_eq!(made.status, 200, "{}", made.text());
        Some(moto)
    }

    fn store(&self) -> ResultStore {
        ResultStore::S3(S3Store {
            endpoint: Some(format!("http://{}", self.address)),
            bucket: "pictures".to_owned(),
            region: "us-east-1".to_owned(),
            prefix: Some("/some/where/".to_owned()),
            access_key_id: "AKID".to_owned(),
            secret_access_key: "secret".to_owned(),
        })
    }

    /// What the bucket lists.
    async fn listed(&self) -> String {
        let request = Request::get("/pictures?list-type=2").header("host", "s3.amazonaws.com");
        ask(self.address, request.body(Full::default()).expect("a request")).await.text().to_owned()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/.venv/bin/moto_server");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("moto_server"));
    std::iter::once(clients).chain(on_path).find(|program| program.is_file())
}

async fn serving(data: &Path, store: ResultStore) -> Fixture {
    Fixture::with(|config| {
        config.data_dir = Some(data.to_owned());
        config.results.store = store;
    })
    .await
}

#[tokio::test]
async fn results_lie_in_a_bucket_and_are_had_through_the_server() {
    let Some(moto) = Moto::start().await else { return };
    let data = tempfile::tempdir().expect("a folder");
    let fixture = serving(data.path(), moto.store()).await;
    let link = draw(fixture.address, "{\"link\": true}").await.json()["link"].clone();
    let target =
        link.as_str().and_then(|link| link.strip_prefix("http://localhost")).expect("a link").to_owned();
    let file = ask(fixture.address, get(&target)).await;
    assert!(file.status == 200 && file.body.starts_with(b"\x89PNG"), "{}", file.status);

    let task = draw(fixture.address, "{\"submit\": true}").await.json()["id"].clone();
    let poll = json!({"poll": task}).to_string();
    let begun = Instant::now();
    while draw(fixture.address, &poll).await.json()["state"] != "Done" {
        assert!(begun.elapsed() < PATIENCE, "it is never done");
    }
    let listed = moto.listed().await;
    assert!(listed.contains("some/where/links/") && listed.contains("some/where/tasks/"), "{listed}");
    assert!(!data.path().join("serve/results").exists(), "nothing lies in the data folder");

    // The store goes away: everything has an answer that is true, and the task stays as it is.
    drop(moto);
    assert_eq!(soon(draw(fixture.address, "{}")).await.status, 200);
    assert_eq!(ask(fixture.address, get(&target)).await.status, 503);
    assert_eq!(soon(draw(fixture.address, "{\"link\": true}")).await.status, 500);
    assert_eq!(
        soon(draw(fixture.address, &poll)).await.status,
        503,
        "not 500, which would say that it failed"
    );
}

#[tokio::test]
async fn a_bucket_is_swept_like_a_folder() {
    let Some(moto) = Moto::start().await else { return };
    let data = tempfile::tempdir().expect("a folder");
    let hour = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() / 3600;
    for (name, hour) in [("old", hour - 1), ("new", hour + 1)] {
        let path = format!("/pictures/some/where/links/{hour}/{name}.png");
        let put = Request::put(path).header("host", "s3.amazonaws.com");
        ask(moto.address, put.body(Full::from("x")).expect("a request")).await;
    }
    let _fixture = Fixture::with(|config| {
        config.data_dir = Some(data.path().to_owned());
        config.results.store = moto.store();
        config.sweep_every = std::time::Duration::from_millis(50);
    })
    .await;
    let begun = Instant::now();
    while moto.listed().await.contains("old.png") {
        assert!(begun.elapsed() < PATIENCE, "it is never swept");
    }
    assert!(moto.listed().await.contains("new.png"));
}

#[tokio::test]
async fn an_unreachable_store_answers_in_time_and_keeps_nothing_else_from_working() {
    let data = tempfile::tempdir().expect("a folder");
    let port =
        TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it has one").port();
    let store = ResultStore::S3(S3Store {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        bucket: "pictures".to_owned(),
        region: "us-east-1".to_owned(),
        prefix: None,
        access_key_id: "AKID".to_owned(),
        secret_access_key: "secret".to_owned(),
    });
    let fixture = serving(data.path(), store).await;
    assert_eq!(draw(fixture.address, "{}").await.status, 200);
    assert_eq!(soon(draw(fixture.address, "{\"link\": true}")).await.status, 500);
    let task = draw(fixture.address, "{\"submit\": true}").await.json()["id"].clone();
    let poll = json!({"poll": task}).to_string();
    let failed = || async { draw(fixture.address, &poll).await.status == 500 };
    let begun = Instant::now();
    while !failed().await {
        assert!(begun.elapsed() < PATIENCE, "it is never told");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(failed().await, "and it stays so");
    eventually("the worker is free", || fixture.generator.counts().drawn >= 3).await;
}
