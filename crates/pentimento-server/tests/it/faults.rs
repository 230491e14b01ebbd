//! A full disk: a small tmpfs as the data folder, where it may be mounted.

use crate::{
    client::{Answer, ask, draw, get, soon},
    fake::{Fixture, PATIENCE},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A folder of a few megabytes.
struct Small(TempDir);

impl Small {
    /// `None` where nothing may be mounted.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("skipped: a tmpfs cannot be mounted here");
            return None;
        }
        Some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no byte free.
    fn fill(&self) {
        use std::io::Write;
        let mut filler = fs::File::create(self.path().join("filler")).expect("made");
        let mut piece = 1 << 20;
        while piece > 0 {
            if filler.write_all(&vec![1; piece]).is_err() {
                piece /= 2;
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("filler")).expect("removed");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the server may still hold its files.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

async fn tell(fixture: &Fixture, body: Value) -> Answer {
    soon(draw(fixture.address, &body.to_string())).await
}

async fn until_done(fixture: &Fixture, id: &Value) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = tell(fixture, json!({"poll": id})).await;
        if answer.status != 200 || answer.json()["state"] == "Done" {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "never done: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_full_data_folder_has_an_answer_and_with_room_again_work_goes_on() {
    let Some(small) = Small::mount() else { return };
    let fixture = Fixture::with(|config| config.data_dir = Some(small.path().to_owned())).await;
    let done = tell(&fixture, json!({"submit": true})).await.json()["id"].clone();
    until_done(&fixture, &done).await;
    let link = tell(&fixture, json!({"link": true})).await.json()["link"].clone();
    let target =
        link.as_str().and_then(|link| link.strip_prefix("http://localhost")).expect("a link").to_owned();
    let waiting = tell(&fixture, json!({"submit": true, "script": "wait"})).await.json()["id"].clone();
    fixture.generator.begun(3).await;

    small.fill();
    for _ in 0..3 {
        assert_eq!(tell(&fixture, json!({"submit": true})).await.status, 500, "nothing is accepted");
    }
    // Earlier results stay readable, whatever cannot be kept.
    assert_eq!(until_done(&fixture, &done).await.status, 200);
    assert_eq!(ask(fixture.address, get(&target)).await.status, 200);
    fixture.generator.open();
    assert_eq!(tell(&fixture, json!({})).await.status, 200, "pictures as bytes need no disk");
    assert_eq!(tell(&fixture, json!({"link": true})).await.status, 500);
    let state = tell(&fixture, json!({"poll": waiting})).await;
    assert!([200, 500].contains(&state.status), "{}", state.text());

    small.make_room();
    let begun = Instant::now();
    while tell(&fixture, json!({"link": true})).await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "no link any more");
    }
    let again = tell(&fixture, json!({"submit": true})).await;
    assert_eq!(again.status, 200, "without a restart");
    assert_eq!(until_done(&fixture, &again.json()["id"]).await.status, 200);
    // What ended meanwhile ends now, and stays so: its picture could not be kept, or could.
    let end = until_done(&fixture, &waiting).await.status;
    assert_eq!(until_done(&fixture, &waiting).await.status, end);
}
