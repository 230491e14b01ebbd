//! Load: many clients of mixed protocols and manners against a server of its own, and a table of what they got.
//!
//! The server runs without authentication, on the embedded model, in a data folder of its own. Clients: most ask and wait for
//! their answer, over Bedrock's and Volcengine's protocols, at once, as streams, as links that they follow, or as tasks; some
//! leave before it, some send a body slowly or half, some send bodies of 25 MB. What counts: throttling is no error,
//! everything else beside 200 is one. Before all this 50 connections send bodies of 25 MB at once, and then 400 a byte a second.

use crate::run::root;
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Largest body that Bedrock's protocol takes.
const LARGE: usize = 25_000_000;

/// No answer may take longer: a queue of 16 pictures and the one that runs.
const PATIENCE: Duration = Duration::from_secs(180);

/// How often the server's memory is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Memory may not grow by more than this from the first third of the run to the last.
const MOST_GROWTH: u64 = 64 << 20;

/// Connections that send a large body at once, and the memory that they may add together.
const FLOOD: usize = 50;
const MOST_FLOODED: u64 = 1 << 30;

/// Connections that send next to nothing.
const TRICKLE: usize = 400;

/// What a client does, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Invoke,
    Stream,
    Process,
    Link,
    Task,
    Vanish,
    Large,
    SlowBody,
    HalfHead,
}

impl Manner {
    /// Which manner the client of this number has. `both`: whether the program speaks both clouds' protocols.
    fn of(number: usize, both: bool) -> Self {
        match number % 20 {
            0..=6 => Self::Invoke,
            7..=9 => Self::Stream,
            10..=11 if both => Self::Process,
            12..=13 if both => Self::Link,
            14..=15 if both => Self::Task,
            10..=15 => Self::Invoke,
            16 => Self::Vanish,
            17 => Self::Large,
            18 => Self::SlowBody,
            _ => Self::HalfHead,
        }
    }

    /// Whether its answers are judged.
    fn waits(self) -> bool {
        matches!(self, Self::Invoke | Self::Stream | Self::Process | Self::Link | Self::Task | Self::Large)
    }
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    /// By manner and status: how long each answer took.
    answers: BTreeMap<(Manner, u16), Vec<Duration>>,
    broken: Vec<String>,
    memory: Vec<u64>,
}

/// Floods and slow connections, and then so many clients for so long, against this program.
pub(crate) fn run(program: &Path, clients: usize, length: Duration) -> Result<()> {
    with_server(program, |server| {
        flood(server)?;
        trickle(server)?;
        crowd(server, clients, length)
    })
}

/// The clients alone: a run of one or two minutes, for which a machine can be kept quiet.
pub(crate) fn run_clients(program: &Path, clients: usize, length: Duration) -> Result<()> {
    with_server(program, |server| crowd(server, clients, length))
}

fn with_server(program: &Path, work: impl FnOnce(&Server) -> Result<()>) -> Result<()> {
    let data = root().join("target/load-data");
    let _ = fs::remove_dir_all(&data);
    let mut server = Server::start(program, &data)?;
    let done = work(&server);
    let code = server.end()?;
    let _ = fs::remove_dir_all(&data);
    done?;
    ensure!(code == Some(0), "the server ended with {code:?}");
    Ok(())
}

fn crowd(server: &Server, clients: usize, length: Duration) -> Result<()> {
    let (seen, over) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
    let both = ask(server.address, &cloud("CVProcess"), "{}")?.0 != 404;
    if !both {
        println!("this program does not speak Volcengine's protocol: all clients speak Bedrock's");
    }
    let running: Vec<_> = (0..clients)
        .map(|number| {
            let (seen, over, address) = (Arc::clone(&seen), Arc::clone(&over), server.address);
            thread::spawn(move || client(number, Manner::of(number, both), address, &seen, &over))
        })
        .collect();
    let begun = Instant::now();
    while begun.elapsed() < length {
        thread::sleep(LOOK);
        let memory = server.memory()?;
        seen.lock().unwrap_or_else(PoisonError::into_inner).memory.push(memory);
    }
    over.store(true, Ordering::Relaxed);
    for client in running {
        let _ = client.join();
    }
    let peak = server.peak()?;
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    report(&seen, clients, length, peak)
}

/// Many large bodies at the same time: how much memory they add, and that everybody is answered.
fn flood(server: &Server) -> Result<()> {
    let (before, address, over) = (server.memory()?, server.address, AtomicBool::new(false));
    let answered: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let most = thread::scope(|scope| {
        let senders: Vec<_> = (0..FLOOD)
            .map(|number| {
                let (answered, over) = (&answered, &over);
                scope.spawn(move || {
                    let result = act(Manner::Large, 90_000_000 + number, address, over);
                    let named = result.map_or_else(|error| format!("{error:#}"), |status| status.to_string());
                    let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
                    *answered.entry(named).or_default() += 1;
                })
            })
            .collect();
        let mut most = before;
        while senders.iter().any(|sender| !sender.is_finished()) {
            most = most.max(server.memory()?);
            thread::sleep(Duration::from_millis(20));
        }
        Ok::<_, anyhow::Error>(most)
    })?;
    let answered = answered.into_inner().unwrap_or_else(PoisonError::into_inner);
    let added = most.saturating_sub(before);
    println!(
        "{FLOOD} bodies of 25 MB at once: {} MiB, and {} MiB more; answers {answered:?}",
        before >> 20,
        added >> 20
    );
    ensure!(
        answered.keys().all(|status| ["200", "429", "503"].contains(&status.as_str())),
        "a sender was lost"
    );
    ensure!(added < MOST_FLOODED, "they took more memory than they may");
    Ok(())
}

/// Many connections that send next to nothing: what they hold, and whether others are still answered.
fn trickle(server: &Server) -> Result<()> {
    let (before, begun) = (server.memory()?, Instant::now());
    let mut slow = (0..TRICKLE)
        .map(|number| {
            let mut stream = connect(server.address)?;
            let head = match number % 2 {
                0 => "POST /model/x HTTP/1.1\r\nhost:",
                _ => "POST /model/x/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: 24000000\r\n\r\n{",
            };
            stream.write_all(head.as_bytes())?;
            Ok(stream)
        })
        .collect::<Result<Vec<_>>>()?;
    let asked = Instant::now();
    let status = act(Manner::Invoke, 80_000_000, server.address, &AtomicBool::new(false))?;
    let took = asked.elapsed();
    let mut most = 0;
    let mut open = slow.len();
    while open > 0 && begun.elapsed() < PATIENCE {
        most = most.max(server.memory()?);
        // A byte each, as long as it is taken.
        slow.retain_mut(|stream| stream.write_all(b"x").is_ok());
        open = slow.len();
        thread::sleep(LOOK);
    }
    println!(
        "{TRICKLE} connections that send a byte a second: {} MiB more; somebody else's picture ({status}) took {:.2} s; all were closed \
         after {:.0} s",
        most.saturating_sub(before) >> 20,
        took.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    ensure!(status == 200 && open == 0, "{open} of them are still open");
    Ok(())
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(program: &Path, data: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["serve", "--no-auth", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the standard output is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address =
            line.trim().strip_prefix("listening on http://").context("the server does not listen")?;
        Ok(Self { address: address.parse()?, child })
    }

    /// Resident memory in bytes.
    fn memory(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    fn peak(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("it has ended")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such figure")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    }

    fn end(&mut self) -> Result<Option<i32>> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client(number: usize, manner: Manner, address: SocketAddr, seen: &Mutex<Seen>, over: &AtomicBool) {
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let begun = Instant::now();
        let result = act(manner, number * 100_000 + round, address, over);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(status) if manner.waits() => {
                seen.answers.entry((manner, status)).or_default().push(begun.elapsed());
            }
            Err(error) if manner.waits() => seen.broken.push(format!("{manner:?}: {error:#}")),
            Ok(_) | Err(_) => {}
        }
        drop(seen);
        // Who is throttled comes back later, as the SDKs do.
        thread::sleep(Duration::from_millis(100 + (number as u64 * 37) % 200));
    }
}

/// One turn; answers the status.
fn act(manner: Manner, seed: usize, address: SocketAddr, over: &AtomicBool) -> Result<u16> {
    let bedrock = |steps: usize, padding: usize| {
        let text = "x".repeat(padding);
        format!(
            "{{\"text_prompts\":[{{\"text\":\"a red apple\"}}],\"steps\":{steps},\"seed\":{seed},\"pad\":\"{text}\"}}"
        )
    };
    let model = "POST /model/stability.stable-diffusion-xl-v1%3A0";
    match manner {
        Manner::Invoke => Ok(ask(address, &format!("{model}/invoke"), &bedrock(10, 0))?.0),
        Manner::Stream => {
            Ok(ask(address, &format!("{model}/invoke-with-response-stream"), &bedrock(10, 0))?.0)
        }
        Manner::Process => Ok(ask(address, &cloud("CVProcess"), &stylise(seed))?.0),
        Manner::Link => linked(address, seed),
        Manner::Task => task(address, seed, over),
        Manner::Large => Ok(ask(address, &format!("{model}/invoke"), &bedrock(10, LARGE - 200))?.0),
        Manner::Vanish => {
            let mut stream = connect(address)?;
            send(&mut stream, &format!("{model}/invoke"), &bedrock(50, 0))?;
            thread::sleep(Duration::from_millis(300));
            stream.shutdown(Shutdown::Both)?;
            Ok(0)
        }
        Manner::SlowBody => {
            let mut stream = connect(address)?;
            write!(stream, "{model}/invoke HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")?;
            while !over.load(Ordering::Relaxed) {
                stream.write_all(b"x")?;
                thread::sleep(Duration::from_millis(200));
            }
            Ok(0)
        }
        Manner::HalfHead => {
            let mut stream = connect(address)?;
            stream.write_all(b"POST /model/x HTTP/1.1\r\nhost:")?;
            let _ = stream.read(&mut [0; 64]);
            Ok(0)
        }
    }
}

/// A picture as a link, and the file behind it.
fn linked(address: SocketAddr, seed: usize) -> Result<u16> {
    let body = stylise(seed).replacen('{', "{\"return_url\":true,", 1);
    let (status, answer) = ask(address, &cloud("CVProcess"), &body)?;
    if status != 200 {
        return Ok(status);
    }
    let link = answer.split("/results/").nth(1).and_then(|rest| rest.split('"').next());
    let link = link.with_context(|| format!("no link in {answer}"))?.replace("\\u0026", "&");
    Ok(ask(address, &format!("GET /results/{link}"), "")?.0)
}

/// A task from its submission to its picture.
fn task(address: SocketAddr, seed: usize, over: &AtomicBool) -> Result<u16> {
    let (status, answer) = ask(address, &cloud("CVSync2AsyncSubmitTask"), &stylise(seed))?;
    if status != 200 {
        return Ok(status);
    }
    let id = answer.split("\"task_id\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let id = id.with_context(|| format!("no task in {answer}"))?.to_owned();
    let poll = format!("{{\"req_key\":\"{STYLE}\",\"task_id\":\"{id}\"}}");
    loop {
        let (status, answer) = ask(address, &cloud("CVSync2AsyncGetResult"), &poll)?;
        let waits = answer.contains("\"in_queue\"") || answer.contains("\"generating\"");
        if status != 200 || !waits || over.load(Ordering::Relaxed) {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

const STYLE: &str = "img2img_pastel_boys_style";

fn cloud(action: &str) -> String {
    format!("POST /?Action={action}&Version=2022-08-31")
}

/// A grey picture to be drawn again.
fn stylise(seed: usize) -> String {
    format!(
        "{{\"req_key\":\"{STYLE}\",\"binary_data_base64\":[\"{GREY}\"],\"prompt\":\"a statue\",\"seed\":{seed},\
         \"ddim_steps\":10,\"long_resolution\":256,\"canny_weight\":0,\"id_scale\":0}}"
    )
}

/// A grey PNG of 64×64 pixels.
const GREY: &str = "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAYElEQVR4nO3PQQ0AIBDAMED5SUcEj4ZkVbDtmVk/OzrgVQNaA1oDWgNaA1oDWgNaA1oDWgNaA1oDWgNaA1oDWgNaA1oDWgNaA1oDWgNaA1oDWgNaA1oDWgNaA1oDWgPaBaIsAgBhHc02AAAAAElFTkSuQmCC";

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, line: &str, body: &str) -> Result<()> {
    let length = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )?;
    Ok(stream.write_all(body.as_bytes())?)
}

/// A request over a connection of its own: status and body.
fn ask(address: SocketAddr, line: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = connect(address)?;
    // A refusal may come before the whole body was taken.
    let sent = send(&mut stream, line, body);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let Some(status) = answer.get(9..12).and_then(|status| status.parse().ok()) else {
        sent?;
        read?;
        bail!("no answer");
    };
    Ok((status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
}

fn report(seen: &Seen, clients: usize, length: Duration, peak: u64) -> Result<()> {
    println!("{clients} clients for {} s", length.as_secs());
    println!(
        "{:<10} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "manner", "status", "count", "p50 s", "p90 s", "p99 s", "max s"
    );
    let mut wrong = seen.broken.len();
    for ((manner, status), took) in &seen.answers {
        let mut took = took.clone();
        took.sort();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64();
        println!(
            "{:<10} {status:>6} {:>8} {:>8.2} {:>8.2} {:>8.2} {:>8.2}",
            format!("{manner:?}"),
            took.len(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
        if ![200, 429].contains(status) {
            wrong += took.len();
        }
    }
    for message in seen.broken.iter().take(5) {
        println!("broken: {message}");
    }
    let mebibytes = |bytes: u64| bytes >> 20;
    let shown: Vec<String> = seen
        .memory
        .iter()
        .step_by((seen.memory.len() / 12).max(1))
        .map(|bytes| mebibytes(*bytes).to_string())
        .collect();
    println!("memory in MiB over time: {}; peak {}", shown.join(" "), mebibytes(peak));
    let third = seen.memory.len() / 3;
    let most = |part: &[u64]| part.iter().copied().max().unwrap_or_default();
    let (early, late) = (most(&seen.memory[..third]), most(&seen.memory[seen.memory.len() - third..]));
    println!("most in the first third {}, in the last {}", mebibytes(early), mebibytes(late));
    ensure!(wrong == 0, "{wrong} answers were neither pictures nor throttling");
    ensure!(late <= early + MOST_GROWTH, "memory grew");
    Ok(())
}
