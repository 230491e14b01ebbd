//! Emphasis in prompts, by AUTOMATIC1111's documented rules.
//!
//! `(more)` weighs 1.1, `((more))` 1.21, `[less]` 1 / 1.1, `(so:1.3)` 1.3; brackets inside one another multiply. A
//! backslash makes a bracket or a backslash text, and falls away before anything else. Brackets that are not closed reach
//! to the end, closing ones too many are text. The word `BREAK`, in capitals, ends a chunk of tokens, inside brackets too.
//! Source: the "Attention/emphasis" and "BREAK keyword" sections of A1111's wiki, and `prompt_parser.py` for what they
//! leave open.

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// Text with the factor of its tokens' embeddings.
    Text(String, f32),
    /// The chunk ends here.
    Break,
}

/// What a pair of round brackets multiplies by, and a pair of square ones divides by.
const STEP: f64 = 1.1;

/// Weights go no further from 0 than this, which is as good as infinite and finite in f32.
const HEAVIEST: f64 = 1e4;

/// Brackets inside so many others have no effect, so that a long prompt of nothing else takes no long time.
const DEEPEST: usize = 2000;

/// Takes a prompt apart. Pieces of the same weight beside each other are one.
pub(crate) fn parse(prompt: &str) -> Vec<Piece> {
    let mut reader = Reader::default();
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '\\' => reader.escape(rest),
            '(' | '[' => {
                reader.open(first);
                &rest[1..]
            }
            ':' => reader.colon(rest),
            ')' => reader.close_or_text('(', STEP, rest),
            ']' => reader.close_or_text('[', 1.0 / STEP, rest),
            _ => reader.run(rest),
        };
    }
    reader.finish()
}

/// What was read so far.
#[derive(Default)]
struct Reader {
    /// Texts with their weights; `None` is a break.
    parts: Vec<(Option<String>, f64)>,
    open: Vec<Bracket>,
}

struct Bracket {
    sign: char,
    /// The first part inside.
    start: usize,
    counts: bool,
}

impl Reader {
    fn text(&mut self, text: impl Into<String>) {
        self.parts.push((Some(text.into()), 1.0));
    }

    fn open(&mut self, sign: char) {
        let counts = self.open.len() < DEEPEST;
        self.open.push(Bracket { sign, start: self.parts.len(), counts });
    }

    /// Closes the innermost bracket of this sign. One of the other sign that was opened later stays open.
    fn close(&mut self, sign: char, factor: f64) -> bool {
        let Some(index) = self.open.iter().rposition(|bracket| bracket.sign == sign) else { return false };
        let bracket = self.open.remove(index);
        self.multiply(&bracket, factor);
        true
    }

    fn multiply(&mut self, bracket: &Bracket, factor: f64) {
        if bracket.counts {
            self.parts[bracket.start..].iter_mut().for_each(|(_, weight)| *weight *= factor);
        }
    }

    fn close_or_text<'a>(&mut self, sign: char, factor: f64, rest: &'a str) -> &'a str {
        if !self.close(sign, factor) {
            self.text(&rest[..1]);
        }
        &rest[1..]
    }

    fn escape<'a>(&mut self, rest: &'a str) -> &'a str {
        let escaped = rest[1..].chars().next().filter(|sign| matches!(sign, '(' | ')' | '[' | ']' | '\\'));
        match escaped {
            Some(sign) => {
                self.text(sign);
                &rest[2..]
            }
            None => &rest[1..],
        }
    }

    /// `:1.3)` closes a round bracket; any other colon is text.
    fn colon<'a>(&mut self, rest: &'a str) -> &'a str {
        if let Some((weight, after)) = weight_at(rest) {
            if !self.close('(', weight) {
                self.text(&rest[..rest.len() - after.len()]);
            }
            return after;
        }
        self.text(":");
        &rest[1..]
    }

    /// Text up to the next sign that may mean something, with its breaks.
    fn run<'a>(&mut self, rest: &'a str) -> &'a str {
        let end = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
        let (mut run, after) = rest.split_at(end);
        while let Some((before, behind)) = split_at_break(run) {
            self.text(before);
            self.parts.push((None, 1.0));
            run = behind;
        }
        self.text(run);
        after
    }

    fn finish(mut self) -> Vec<Piece> {
        // Inner brackets were opened last.
        while let Some(bracket) = self.open.pop() {
            self.multiply(&bracket, if bracket.sign == '(' { STEP } else { 1.0 / STEP });
        }
        let mut pieces: Vec<(Option<String>, f64)> = Vec::new();
        for (text, weight) in self.parts {
            match (pieces.last_mut(), &text) {
                (Some((Some(before), same)), Some(text)) if *same == weight => before.push_str(text),
                _ => pieces.push((text, weight)),
            }
        }
        let piece = |(text, weight): (Option<String>, f64)| match text {
            Some(text) => Piece::Text(text, weight.clamp(-HEAVIEST, HEAVIEST) as f32),
            None => Piece::Break,
        };
        pieces.into_iter().map(piece).collect()
    }
}

/// The number of `:1.3)` at the start, white space around it allowed, and what follows the bracket.
fn weight_at(text: &str) -> Option<(f64, &str)> {
    let text = text.strip_prefix(':')?.trim_start();
    let (number, after) = text.split_once(')')?;
    let number = number.trim_end();
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    if digits.is_empty() || !digits.chars().all(|sign| sign.is_ascii_digit() || sign == '.') {
        return None;
    }
    let weight: f64 = number.parse().ok()?;
    Some((weight.clamp(-HEAVIEST, HEAVIEST), after))
}

/// What stands before and behind the first `BREAK`, without the white space around it.
fn split_at_break(run: &str) -> Option<(&str, &str)> {
    const WORD: &str = "BREAK";
    let in_word = |sign: char| sign.is_alphanumeric() || sign == '_';
    run.match_indices(WORD).find_map(|(at, _)| {
        let (before, behind) = (&run[..at], &run[at + WORD.len()..]);
        let alone = !before.ends_with(in_word) && !behind.starts_with(in_word);
        alone.then(|| (before.trim_end(), behind.trim_start()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str, weight: f32) -> Piece {
        Piece::Text(text.to_owned(), weight)
    }

    #[test]
    fn brackets_weigh_and_escapes_do_not() {
        let rounded = |prompt: &str| -> Vec<Piece> {
            let round = |piece| match piece {
                Piece::Text(text, weight) => Piece::Text(text, (weight * 1000.0).round() / 1000.0),
                Piece::Break => Piece::Break,
            };
            parse(prompt).into_iter().map(round).collect()
        };
        let inner = text("b", 1.21);
        assert_eq!(rounded("a (b) c"), [text("a ", 1.0), text("b", 1.1), text(" c", 1.0)]);
        assert_eq!(rounded("((b))"), [inner]);
        assert_eq!(rounded("[b]"), [text("b", 0.909)]);
        assert_eq!(rounded("(b:1.3), [c:d]"), [text("b", 1.3), text(", ", 1.0), text("c:d", 0.909)]);
        assert_eq!(rounded("(b: -0.5 )"), [text("b", -0.5)]);
        assert_eq!(rounded("((b:2):0.5)"), [text("b", 1.0)]);
        assert_eq!(rounded(r"\(b\) \[c\] d\\e f\g"), [text(r"(b) [c] d\e fg", 1.0)]);
        assert_eq!(rounded("a (b"), [text("a ", 1.0), text("b", 1.1)]);
        assert_eq!(rounded("[(b"), [text("b", 1.0)]);
        assert_eq!(rounded("a) b] c:1.5)"), [text("a) b] c:1.5)", 1.0)]);
        assert_eq!(rounded("(b:1.2.3)"), [text("b:1.2.3", 1.1)]);
        assert_eq!(rounded("(a [b) c]"), [text("a ", 1.1), text("b", 1.0), text(" c", 0.909)]);
    }

    #[test]
    fn break_is_a_word_in_capitals() {
        assert_eq!(parse("a BREAK b"), [text("a", 1.0), Piece::Break, text("b", 1.0)]);
        assert_eq!(parse("BREAKFAST break BREAK_"), [text("BREAKFAST break BREAK_", 1.0)]);
        assert_eq!(parse("(a BREAK b:2)"), [text("a", 2.0), Piece::Break, text("b", 2.0)]);
        let twice = [text("a", 1.0), Piece::Break, text("", 1.0), Piece::Break, text("", 1.0)];
        assert_eq!(parse("a\nBREAK BREAK"), twice);
    }

    #[test]
    fn no_prompt_is_too_strange() {
        for prompt in [
            "",
            "\\",
            ":",
            ":)",
            "()",
            "[]",
            "(:)",
            "(:1)",
            "((((",
            "))))",
            "]][[",
            "(a:99999999999999999999999)",
            "(:.)",
            "(é:1.3)",
            "😀(中文:1.2)\u{0}",
            "(a:\u{2003}1.5\u{2003})",
            "\\é",
            "(a:+)",
            "(a:-)",
            "(a:1e9)",
        ] {
            for piece in parse(prompt) {
                assert!(!matches!(piece, Piece::Text(_, weight) if !weight.is_finite()), "{prompt}");
            }
        }
        let deep = "(".repeat(20_000) + "a" + &"(b".repeat(10_000) + &")]".repeat(5_000);
        assert!(parse(&deep).iter().all(|piece| !matches!(piece, Piece::Text(_, weight) if *weight > 1.4e4)));
    }
}
