//! The fuzz targets over their corpora and a few thousand mutations of them, always the same ones.
//!
//! `PENTIMENTO_FUZZ_SECONDS=120` goes on for so long per target, with other mutations, and prints how many it tried.

#[path = "../../../../fuzz/src/targets.rs"]
#[allow(unreachable_pub, reason = "there it is a library's module")]
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

/// Mutations per target in a usual run.
const MUTATIONS: u64 = 1000;

/// Marsaglia 2003, "Xorshift RNGs": enough to be different everywhere, and the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }
}

/// Bytes that decoders stumble over.
const AWKWARD: [&[u8]; 12] = [
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"99999999999999999999",
    b"-1",
    b"1e999",
    b"\"",
    b"{",
    b"[[[[[[[[",
    b"\xc3\x28",
];

fn mutated(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = corpus[dice.roll(corpus.len())].clone();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            1 if at < bytes.len() => bytes[at] = dice.roll(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at, AWKWARD[dice.roll(AWKWARD.len())].iter().copied())),
            4 => {
                let end = (at + dice.roll(16)).min(bytes.len());
                drop(bytes.drain(at..end));
            }
            _ => {
                let other = &corpus[dice.roll(corpus.len())];
                let from = dice.roll(other.len());
                let to = (from + dice.roll(64)).min(other.len());
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
        }
    }
    bytes
}

#[test]
fn no_bytes_make_a_target_panic() {
    let seconds = std::env::var("PENTIMENTO_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let length = seconds.map(Duration::from_secs);
    for (name, target) in targets::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> = files.map(|file| file.expect("an entry").path()).collect();
        paths.sort();
        let corpus: Vec<_> = paths.iter().map(|path| fs::read(path).expect("readable")).collect();
        assert!(!corpus.is_empty(), "{name} has no corpus");
        corpus.iter().for_each(|bytes| target(bytes));
        let (begun, mut tried) = (Instant::now(), 0);
        let mut dice = Dice(length.map_or(0x2545_f491_4f6c_dd1d, |_| 0x9e37_79b9_7f4a_7c15));
        while length.map_or(tried < MUTATIONS, |length| begun.elapsed() < length) {
            let bytes = mutated(&corpus, &mut dice);
            if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
                panic!("{name} panicked at mutation {tried}: {}", bytes.escape_ascii());
            }
            tried += 1;
        }
        println!("{name}: {tried} mutations in {:.1} s", begun.elapsed().as_secs_f64());
    }
}
