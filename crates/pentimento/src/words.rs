//! Prompts with words that the operator does not want drawn are refused before anything is drawn.
//!
//! Whole words count, not parts of others. Text is compared as a reader sees it: in compatibility form (so that full-width and
//! mathematical letters are letters), without accents, case and invisible characters. Punctuation inside a word does not hide
//! it, nor do digits at its end or spaces between single letters. A word of a script that puts no spaces between words is
//! found anywhere. Letters that merely look like others (a Cyrillic "а") and misspellings are not seen through.
//! Source: Unicode Standard Annex 15 (normalisation forms).

use anyhow::{Result, bail};
use pentimento_request::{ErrorKind, GenerateError, GeneratedImage, GenerationRequest, Generator, Progress};
use std::sync::{Arc, PoisonError, RwLock};
use unicode_normalization::UnicodeNormalization;

/// Entries that a list may have: enough for any published list, few enough to be compared with every prompt.
const MOST_ENTRIES: usize = 10_000;

/// Characters that an entry may have.
const LONGEST_ENTRY: usize = 200;

/// What is not drawn: words, and phrases of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WordList {
    /// Each as its words.
    phrases: Vec<Vec<String>>,
    /// Those of scripts without spaces, letters alone.
    unspaced: Vec<String>,
}

impl WordList {
    /// A list of these entries.
    ///
    /// # Errors
    /// Names the entry that holds no letter or is too long, and tells when there are too many.
    pub(crate) fn new(entries: &[String]) -> Result<Self> {
        if entries.len() > MOST_ENTRIES {
            bail!("filter.words: {} are more than the {MOST_ENTRIES} that are compared", entries.len());
        }
        let mut list = Self::default();
        for entry in entries {
            if entry.chars().count() > LONGEST_ENTRY {
                bail!("filter.words: an entry has more than {LONGEST_ENTRY} characters");
            }
            let words = split(&folded(entry), char::is_alphanumeric);
            match words.concat() {
                letters if letters.is_empty() => bail!("filter.words: '{entry}' holds no letter"),
                letters if letters.chars().any(is_of_unspaced_script) => list.unspaced.push(letters),
                _ => list.phrases.push(words),
            }
        }
        Ok(list)
    }

    /// Whether a text holds an entry.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        if self.phrases.is_empty() && self.unspaced.is_empty() {
            return false;
        }
        let text = folded(text);
        let words = split(&text, char::is_alphanumeric);
        let letters: String = text.chars().filter(|letter| letter.is_alphanumeric()).collect();
        // What stands between spaces, its punctuation left out: `n.u.d.e`.
        let closed =
            text.split_whitespace().map(|word| word.chars().filter(|c| c.is_alphanumeric()).collect());
        let readings = [spelled_out(&words), split(&text, char::is_alphabetic), closed.collect(), words];
        let holds = |words: &Vec<String>, phrase: &Vec<String>| {
            words.windows(phrase.len()).any(|window| window == phrase.as_slice())
        };
        self.unspaced.iter().any(|entry| letters.contains(entry.as_str()))
            || self.phrases.iter().any(|phrase| readings.iter().any(|words| holds(words, phrase)))
    }
}

/// The text as it is compared.
fn folded(text: &str) -> String {
    let bare = text.nfkd().filter(|letter| !is_accent(*letter) && !is_invisible(*letter));
    let bare: String = bare.nfc().collect();
    // First to capitals: some small letters have no other fold (`ß`, `ı`).
    bare.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// The combining marks of European scripts; those of others make other letters.
fn is_accent(letter: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&letter)
}

/// Characters that show nothing (Unicode's Default_Ignorable_Code_Point, as far as anybody types them).
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

/// Scripts whose texts put no spaces between words: Thai to Burmese, Khmer, kana, Han, Hangul.
fn is_of_unspaced_script(letter: char) -> bool {
    matches!(letter, '\u{e00}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

fn split(text: &str, is_part: fn(char) -> bool) -> Vec<String> {
    text.split(|letter| !is_part(letter)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The words with runs of single letters made one word: `n u d e`.
fn spelled_out(words: &[String]) -> Vec<String> {
    let is_single = |word: &String| word.chars().nth(1).is_none();
    let runs = words.chunk_by(|one, next| is_single(one) && is_single(next));
    runs.map(<[String]>::concat).collect()
}

/// A generator that draws no prompt with a word of a list.
pub(crate) struct Screened {
    generator: Arc<dyn Generator>,
    words: RwLock<Arc<WordList>>,
}

impl Screened {
    /// This generator behind this list.
    pub(crate) fn new(generator: Arc<dyn Generator>, words: WordList) -> Self {
        Self { generator, words: RwLock::new(Arc::new(words)) }
    }

    /// Another list from now on.
    pub(crate) fn exchange(&self, words: WordList) {
        *self.words.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(words);
    }

    fn check(&self, request: &GenerationRequest) -> Result<(), GenerateError> {
        let words = Arc::clone(&self.words.read().unwrap_or_else(PoisonError::into_inner));
        // What is not to be seen may be named.
        let mut shown = request.prompts.iter().filter(|prompt| prompt.weight > 0.0);
        match shown.any(|prompt| words.is_in(&prompt.text)) {
            true => {
                let message = "prompts: one of them holds a word that is not drawn here";
                Err(GenerateError::new(ErrorKind::PromptRefused, message))
            }
            false => Ok(()),
        }
    }
}

impl Generator for Screened {
    fn generate(
        &self,
        request: &GenerationRequest,
        progress: &mut dyn Progress,
    ) -> Result<GeneratedImage, GenerateError> {
        // Again: the list may have changed while the request waited.
        self.check(request)?;
        self.generator.generate(request, progress)
    }

    fn admit(&self, request: &GenerationRequest) -> Result<(), GenerateError> {
        self.check(request)?;
        self.generator.admit(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> WordList {
        let entries: Vec<_> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        WordList::new(&entries).expect("a list")
    }

    #[test]
    fn words_are_found_whole_and_however_they_are_written() {
        let words = list(&["nude", "blood bath", "Straße", "血"]);
        for text in [
            "a nude",
            "NUDE",
            "Nude,",
            "(nude:1.3)",
            "((nude))",
            "n.u.d.e",
            "n-u-d-e",
            "n u d e",
            "nu*de",
            "nüde",
            "ｎｕｄｅ",
            "𝓷𝓾𝓭𝓮",
            "nu\u{200b}de",
            "nu\u{ad}de",
            "nude2",
            "a nude_woman",
            "a blood, bath",
            "BLOOD\nBATH",
            "die strasse",
            "STRASSE",
            "很多血",
            "[nude]",
        ] {
            assert!(words.is_in(text), "{text}");
        }
        for text in [
            "",
            "denude",
            "nudes of fruit",
            "bath blood",
            "blood red bath",
            "a nud e",
            "string",
            "😀",
            "(((",
            "n u",
        ] {
            assert!(!words.is_in(text), "{text}");
        }
    }

    #[test]
    fn an_empty_list_finds_nothing_and_an_empty_entry_is_refused() {
        assert!(!list(&[]).is_in("anything"));
        for wrong in ["", "...", "\u{200b}"] {
            assert!(WordList::new(&[wrong.to_owned()]).is_err(), "{wrong:?}");
        }
        assert!(WordList::new(&["x".repeat(201)]).is_err());
        assert!(WordList::new(&vec!["x".to_owned(); 10_001]).is_err());
    }
}
