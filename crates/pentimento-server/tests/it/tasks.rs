//! Tasks: their states, and what becomes of them when the server ends or is killed.

use crate::{
    client::{Answer, ask, draw, get, post},
    fake::{Fixture, PATIENCE, eventually},
};
use pentimento_server::{Clock, ServerConfig};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

async fn serving(folder: &Path) -> Fixture {
    serving_with(folder, |_| {}).await
}

async fn serving_with(folder: &Path, change: impl FnOnce(&mut ServerConfig)) -> Fixture {
    Fixture::with(|config| {
        config.data_dir = Some(folder.to_owned());
        change(config);
    })
    .await
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// What a disk holds when a server is killed now: a copy, while the server goes on and does not know.
fn as_killed(folder: &TempDir) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            let to = to.join(entry.file_name());
            if entry.file_type().expect("a type").is_dir() {
                std::fs::create_dir(&to).expect("made");
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).expect("copied");
            }
        }
    }
    let killed = self::folder();
    copy(folder.path(), killed.path());
    killed
}

async fn tell(address: SocketAddr, body: Value) -> Answer {
    draw(address, &body.to_string()).await
}

/// Submits a script and answers its task's id.
async fn submitted(address: SocketAddr, script: &str) -> String {
    let answer = tell(address, json!({"submit": true, "script": script})).await;
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("Queued")));
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// Polls until the task is in this state, or its answer has another status than 200.
async fn until(address: SocketAddr, id: &str, state: &str) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = tell(address, json!({"poll": id})).await;
        if answer.status != 200 || answer.json()["state"] == state {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{id} never was {state}: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn state(address: SocketAddr, id: &str) -> String {
    let answer = tell(address, json!({"poll": id})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["state"].as_str().expect("a state").to_owned()
}

#[tokio::test]
async fn a_task_waits_runs_and_is_done() {
    let folder = folder();
    let fixture = serving(folder.path()).await;
    let address = fixture.address;
    let first = submitted(address, "wait").await;
    fixture.generator.begun(1).await;
    let second = submitted(address, "draw").await;
    assert_eq!(first.len(), 19, "{first}");
    assert_eq!([state(address, &first).await, state(address, &second).await], ["Running", "Queued"]);
    fixture.generator.open();
    for id in [&first, &second] {
        let done = until(address, id, "Done").await.json();
        assert_eq!(done["finished"]["png"], true, "{done}");
        let again = tell(address, json!({"poll": id, "jpeg": true})).await.json();
        assert_eq!(again["finished"]["png"], false, "each time it is finished as it is asked for: {again}");
        assert_eq!(again["finished"]["seed"], done["finished"]["seed"]);
    }
}

#[tokio::test]
async fn a_failure_is_told_and_stays() {
    let folder = folder();
    let fixture = serving(folder.path()).await;
    for (script, status) in [("fail", 500), ("panic", 500), ("no such script", 400)] {
        let id = submitted(fixture.address, script).await;
        assert_eq!(until(fixture.address, &id, "never").await.status, status, "{script}");
        assert_eq!(tell(fixture.address, json!({"poll": id})).await.status, status);
        let cancelled = tell(fixture.address, json!({"cancel": id})).await;
        assert_eq!(cancelled.status, status, "what has failed cannot be broken off");
    }
}

#[tokio::test]
async fn another_callers_task_is_not_found() {
    let folder = folder();
    let fixture = serving(folder.path()).await;
    let answer = tell(fixture.address, json!({"submit": true, "caller": "a"})).await;
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    for body in [json!({"poll": id, "caller": "b"}), json!({"cancel": id}), json!({"poll": "77"})] {
        assert_eq!(tell(fixture.address, body).await.json()["state"], "NotFound");
    }
    let own = tell(fixture.address, json!({"poll": id, "caller": "a"})).await;
    assert_ne!(own.json()["state"], "NotFound");
}

#[tokio::test]
async fn tasks_are_broken_off_running_or_waiting_but_not_when_they_are_done() {
    let folder = folder();
    let fixture = serving(folder.path()).await;
    let address = fixture.address;
    let running = submitted(address, "wait").await;
    fixture.generator.begun(1).await;
    let waiting = submitted(address, "wait").await;
    for id in [&waiting, &running] {
        assert_eq!(tell(address, json!({"cancel": id})).await.json()["state"], "Cancelled");
    }
    fixture.generator.cancelled(1).await;
    let done = submitted(address, "draw").await;
    until(address, &done, "Done").await;
    assert_eq!(tell(address, json!({"cancel": done})).await.json()["state"], "Done");
    for id in [&waiting, &running] {
        assert_eq!(state(address, id).await, "Cancelled");
    }
    assert_eq!(fixture.generator.counts().begun, 2, "what was broken off while it waited never began");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_take_its_task_along() {
    let folder = folder();
    let fixture = serving(folder.path()).await;
    let id = submitted(fixture.address, "wait").await;
    fixture.generator.begun(1).await;
    fixture.generator.open();
    until(fixture.address, &id, "Done").await;
    assert_eq!(fixture.generator.counts().cancelled, 0);
}

#[tokio::test]
async fn a_killed_server_s_tasks_are_run_again_with_their_seed_and_none_twice() {
    let folder = folder();
    let fixture = serving(folder.path()).await;
    let done = submitted(fixture.address, "draw").await;
    let before = until(fixture.address, &done, "Done").await.json();
    let failed = submitted(fixture.address, "fail").await;
    until(fixture.address, &failed, "never").await;
    let mut open = vec![];
    for seed in 0..4 {
        let body = json!({"submit": true, "script": "wait", "seed": 40 + seed});
        open.push(tell(fixture.address, body).await.json()["id"].as_str().expect("an id").to_owned());
    }
    fixture.generator.begun(3).await;
    let folder = as_killed(&folder);

    // Fewer places than tasks: they were accepted, so they have theirs.
    let fixture = serving_with(folder.path(), |config| config.queue_places = 1).await;
    assert_eq!(
        tell(fixture.address, json!({"poll": done})).await.json(),
        before,
        "what was done stays as it was"
    );
    assert_eq!(tell(fixture.address, json!({"poll": failed})).await.status, 500);
    for id in &open {
        assert!(["Queued", "Running"].contains(&state(fixture.address, id).await.as_str()));
    }
    assert_eq!(tell(fixture.address, json!({"submit": true})).await.status, 429, "new ones have to wait");
    fixture.generator.open();
    for (seed, id) in open.iter().enumerate() {
        let done = until(fixture.address, id, "Done").await.json();
        assert_eq!(done["finished"]["seed"], 40 + seed as u64);
    }
    assert_eq!(fixture.generator.counts().drawn, open.len(), "each once");
    let id = submitted(fixture.address, "draw").await;
    until(fixture.address, &id, "Done").await;
}

/// Says in which folder a process of its own serves.
const SERVED: &str = "PENTIMENTO_TEST_SERVED";

/// No test: what [`a_task_survives_kill_9`] starts as a process of its own.
#[tokio::test]
async fn serves_until_it_is_killed() {
    let Ok(folder) = std::env::var(SERVED) else { return };
    let fixture = serving(Path::new(&folder)).await;
    println!("serving {}", fixture.address);
    tokio::time::sleep(3 * PATIENCE).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_task_survives_kill_9() {
    let folder = folder();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "tasks::serves_until_it_is_killed", "--nocapture"])
        .env(SERVED, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let address: SocketAddr = stdout
        .lines()
        .find_map(|line| line.ok()?.split_once("serving ")?.1.trim().parse().ok())
        .expect("it serves");
    let done = submitted(address, "draw").await;
    let before = until(address, &done, "Done").await.json();
    let mut open = vec![];
    for seed in 0..3 {
        let body = json!({"submit": true, "script": "wait", "seed": seed});
        open.push(tell(address, body).await.json()["id"].as_str().expect("an id").to_owned());
    }
    until(address, &open[0], "Running").await;
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");

    let fixture = serving(folder.path()).await;
    assert_eq!(tell(fixture.address, json!({"poll": done})).await.json(), before);
    fixture.generator.open();
    for (seed, id) in open.iter().enumerate() {
        assert_eq!(until(fixture.address, id, "Done").await.json()["finished"]["seed"], seed as u64);
    }
    assert_eq!(fixture.generator.counts().drawn, open.len());
}

#[tokio::test]
async fn at_an_orderly_end_the_running_task_is_finished_and_the_others_wait_for_the_next_start() {
    let folder = folder();
    let mut fixture = serving(folder.path()).await;
    let running = submitted(fixture.address, "wait").await;
    fixture.generator.begun(1).await;
    let waiting = submitted(fixture.address, "draw").await;
    let (address, shown) = (fixture.address, fixture.protocol.shown());
    let queued = tokio::spawn(async move { draw(address, "{}").await });
    eventually("the request arrives", || fixture.protocol.shown() > shown).await;
    fixture.signal();
    // Refused, so that the signal has been seen before the running task ends.
    assert_eq!(queued.await.expect("no panic").status, 503);
    fixture.generator.open();
    let generator = Arc::clone(&fixture.generator);
    fixture.ended().await;
    assert_eq!(generator.counts().drawn, 1);

    let fixture = serving(folder.path()).await;
    assert_eq!(state(fixture.address, &running).await, "Done");
    until(fixture.address, &waiting, "Done").await;
    assert_eq!(fixture.generator.counts().drawn, 1);
}

#[tokio::test]
async fn a_task_that_does_not_end_in_time_runs_again_after_the_next_start_however_often() {
    let folder = folder();
    let mut id = None;
    for round in 0..5 {
        let mut fixture =
            serving_with(folder.path(), |config| config.shutdown_timeout = Duration::from_millis(400)).await;
        if round == 0 {
            id = Some(submitted(fixture.address, "wait").await);
        }
        fixture.generator.begun(1).await;
        fixture.signal();
        fixture.ended().await;
    }
    let fixture = serving(folder.path()).await;
    fixture.generator.open();
    until(fixture.address, &id.expect("an id"), "Done").await;
}

#[tokio::test]
async fn a_task_during_which_the_server_is_killed_again_and_again_fails() {
    let (mut folder, mut servers, mut id) = (folder(), vec![], None);
    for round in 0..3 {
        let fixture = serving(folder.path()).await;
        if round == 0 {
            id = Some(submitted(fixture.address, "wait").await);
        }
        fixture.generator.begun(1).await;
        folder = as_killed(&folder);
        // Its folder is gone, and it does not matter to the next one.
        servers.push(fixture);
    }
    let fixture = serving(folder.path()).await;
    let id = id.expect("an id");
    assert_eq!(until(fixture.address, &id, "never").await.status, 500);
    assert_eq!(fixture.generator.counts().begun, 0);
}

#[tokio::test]
async fn without_a_data_folder_there_are_no_tasks() {
    let fixture = Fixture::start().await;
    for body in [json!({"submit": true}), json!({"poll": "1"}), json!({"link": true})] {
        assert_eq!(tell(fixture.address, body).await.status, 500);
    }
}

/// Clocks that a test moves: how far the wall clock was set, in seconds, and how much time passed.
#[derive(Default)]
struct Moved(Mutex<(i64, Duration)>);

impl Moved {
    /// Time passes, on both clocks.
    fn pass(&self, length: Duration) {
        self.0.lock().expect("not poisoned").1 += length;
    }

    /// Somebody sets the wall clock ahead, or back.
    fn set(&self, hours: i64) {
        self.0.lock().expect("not poisoned").0 += hours * 3600;
    }
}

impl Clock for Moved {
    fn wall(&self) -> SystemTime {
        let (set, passed) = *self.0.lock().expect("not poisoned");
        let length = Duration::from_secs(set.unsigned_abs());
        let now = SystemTime::now() + passed;
        if set < 0 { now - length } else { now + length }
    }

    fn steady(&self) -> Instant {
        Instant::now() + self.0.lock().expect("not poisoned").1
    }
}

#[tokio::test]
async fn a_task_is_known_for_twelve_hours_after_its_end_and_expires_after_twelve_of_waiting() {
    let (folder, clock) = (folder(), Arc::new(Moved::default()));
    let change = |config: &mut ServerConfig| {
        config.clock = clock.clone();
        config.sweep_every = Duration::from_millis(20);
    };
    let fixture = serving_with(folder.path(), change).await;
    let done = submitted(fixture.address, "draw").await;
    until(fixture.address, &done, "Done").await;
    let waiting = submitted(fixture.address, "wait").await;
    fixture.generator.begun(2).await;
    clock.pass(11 * HOUR + HOUR / 2);
    assert_eq!(
        [state(fixture.address, &done).await, state(fixture.address, &waiting).await],
        ["Done", "Running"]
    );
    let folder = as_killed(&folder);
    let fixture = serving_with(folder.path(), change).await;
    assert_eq!(state(fixture.address, &done).await, "Done");
    clock.pass(HOUR);
    assert_eq!(state(fixture.address, &done).await, "NotFound");
    let folder = as_killed(&folder);
    let fixture = serving_with(folder.path(), change).await;
    until(fixture.address, &waiting, "Expired").await;
    clock.pass(13 * HOUR);
    until(fixture.address, &waiting, "NotFound").await;
}

#[tokio::test]
async fn a_wall_clock_that_is_set_expires_nothing() {
    let (folder, clock) = (folder(), Arc::new(Moved::default()));
    let fixture = serving_with(folder.path(), |config| {
        config.clock = clock.clone();
        config.sweep_every = Duration::from_millis(20);
    })
    .await;
    let id = submitted(fixture.address, "draw").await;
    until(fixture.address, &id, "Done").await;
    let link = tell(fixture.address, json!({"poll": id, "link": true})).await.json();
    let link = link["finished"]["link"].as_str().expect("a link").to_owned();
    let target = format!("/results/{}", link.split_once("/results/").expect("a path").1);
    for hours in [1000, -2000] {
        clock.set(hours);
        assert_eq!(state(fixture.address, &id).await, "Done", "{hours}");
        assert_eq!(ask(fixture.address, get(&target)).await.status, 200, "{hours}");
        let next = submitted(fixture.address, "draw").await;
        until(fixture.address, &next, "Done").await;
    }
    // A server that starts while the clock is behind takes what lies in its future for young.
    let folder = as_killed(&folder);
    let fixture = serving_with(folder.path(), |config| config.clock = clock.clone()).await;
    assert_eq!(state(fixture.address, &id).await, "Done");
    assert_eq!(ask(fixture.address, get(&target)).await.status, 200);
}

#[tokio::test]
async fn links_lead_to_the_finished_file_over_restarts_until_their_time_is_over() {
    let (folder, clock) = (folder(), Arc::new(Moved::default()));
    let change = |config: &mut ServerConfig| {
        config.clock = clock.clone();
        config.sweep_every = Duration::from_millis(20);
    };
    let fixture = serving_with(folder.path(), change).await;
    let answer = tell(fixture.address, json!({"link": true, "jpeg": true})).await.json();
    let link = answer["link"].as_str().expect("a link").to_owned();
    assert!(link.starts_with("http://localhost/results/") && link.contains(".jpg?expires="), "{link}");
    let target = link.strip_prefix("http://localhost").expect("as it was asked").to_owned();
    let folder = as_killed(&folder);

    let fixture = serving_with(folder.path(), change).await;
    let file = ask(fixture.address, get(&target)).await;
    assert_eq!((file.status, &file.headers["content-type"]), (200, &"image/jpeg".parse().expect("a value")));
    assert!(file.body.starts_with(b"\xff\xd8\xff") && file.headers["cache-control"].to_str().is_ok());
    for wrong in [
        target.replace(".jpg", ".png"),
        target.replace("expires=", "expires=9"),
        target.replace("signature=", "signature=00"),
        target.split_once('?').expect("a query").0.to_owned(),
        "/results/".to_owned(),
        "/results/../../link.key?expires=9999999999&signature=00".to_owned(),
    ] {
        assert_eq!(ask(fixture.address, get(&wrong)).await.status, 403, "{wrong}");
    }
    assert_eq!(ask(fixture.address, post(&target, "")).await.status, 405);
    clock.pass(24 * HOUR);
    assert_eq!(ask(fixture.address, get(&target)).await.status, 403, "its time is over");
    clock.pass(HOUR);
    let results = folder.path().join("serve/results/links");
    crate::fake::eventually("the file is deleted", || {
        std::fs::read_dir(&results).map_or(true, |mut entries| entries.next().is_none())
    })
    .await;
}

#[tokio::test]
async fn links_begin_as_it_is_configured() {
    let folder = folder();
    let fixture = serving_with(folder.path(), |config| {
        config.results.public_url = Some("https://pictures.example.com/base/".to_owned());
    })
    .await;
    let link = tell(fixture.address, json!({"link": true})).await.json()["link"].clone();
    assert!(link.as_str().is_some_and(|link| link.starts_with("https://pictures.example.com/base/results/")));
}
