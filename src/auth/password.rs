//! Passwords: what is taken for one, and which ones a user may choose.
//!
//! A [`Password`] is bounded and normalised, nothing more: logins need no better, since older ones must go on working.
//! A [`Policy`] judges new ones. There are no rules of composition and none of expiry (NIST SP 800-63B §3.1.1.2): a
//! password is refused when it is short or when a guesser would try it early.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;
use zxcvbn::{Score, zxcvbn};

use crate::users::user::Refusal;

/// The longest password, in code points after normalisation.
pub const MAX_CHARS: usize = 128;
/// The longest password, in bytes as it was sent: bounds the work of normalising it.
pub const MAX_BYTES: usize = 1024;
/// The smallest minimum that a policy may have, in code points.
pub const LEAST_MIN_CHARS: usize = 8;

/// The most common passwords, one a line, in lower case; lines beginning with [`COMMENT`] are not entries.
const COMMON: &str = include_str!("common_passwords.txt");
/// How a line that is no entry of [`COMMON`] begins.
const COMMENT: &str = "# ";
/// How much of a password the guesser's estimate reads, in code points: its work grows faster than the length.
const ESTIMATED_CHARS: usize = 100;

/// A password as somebody sent it, brought to NFC. Zeroed on drop; its `Debug` is redacted.
///
/// Every code point counts: case, spaces, NULs.
#[derive(Debug, Clone)]
pub struct Password(SecretString);

impl Password {
    /// Takes any text of at most 128 code points and 1,024 bytes. Errors: rule `length`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > MAX_BYTES {
            return Err(too_long());
        }
        // NFC makes text at most three times as long (Unicode Annex 15 §12), so no copy is left behind by growing.
        let mut normal = Zeroizing::new(String::with_capacity(text.len() * 3));
        normal.extend(text.nfc());
        if normal.chars().count() > MAX_CHARS {
            return Err(too_long());
        }
        Ok(Self(SecretString::from(normal.as_str())))
    }

    /// The password itself: for the hash and the policy only.
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

fn too_long() -> Refusal {
    Refusal::new("length", format!("must have at most {MAX_CHARS} characters; choose a shorter one"))
}

/// Why a policy cannot be had. The message is for whoever configures it.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The minimum is not one of 8 to 128.
    #[error("the minimum must be between {LEAST_MIN_CHARS} and {MAX_CHARS} characters")]
    Minimum,
    /// The list file cannot be read.
    #[error("the list of refused passwords cannot be read: {0}")]
    List(#[from] std::io::Error),
}

/// Which passwords a user may choose.
pub struct Policy {
    min_chars: usize,
    /// The fingerprints of all listed passwords, sorted: 8 bytes an entry, so that a list of millions can be had.
    listed: Vec<u64>,
}

impl Policy {
    /// A policy with the shipped list and, when there is one, a file of more: UTF-8, one a line, any case.
    pub fn load(min_chars: usize, extra_list: Option<&Path>) -> Result<Self, PolicyError> {
        if !(LEAST_MIN_CHARS..=MAX_CHARS).contains(&min_chars) {
            return Err(PolicyError::Minimum);
        }
        let mut listed: Vec<u64> = shipped().map(fingerprint).collect();
        if let Some(path) = extra_list {
            let mut file = BufReader::new(File::open(path)?);
            let mut line = Vec::new();
            while file.read_until(b'\n', &mut line)? > 0 {
                let text = String::from_utf8_lossy(&line); // what is not UTF-8 cannot be typed here either
                listed.push(fingerprint(text.trim_end_matches(['\r', '\n'])));
                line.clear();
            }
        }
        listed.sort_unstable();
        listed.dedup();
        listed.shrink_to_fit();
        let _ = zxcvbn("first", &[]); // it builds its dictionaries at first use: better now than in a call
        Ok(Self { min_chars, listed })
    }

    /// The password that `text` is, if a user of this name and address may choose it. An empty address is none.
    ///
    /// Errors, each naming the reason and what to do: rules `length`, `own_name`, `common`, `guessable`. Takes a
    /// quarter of a millisecond, and up to 40 for the longest texts: where calls are answered, use
    /// [`Hasher::hash_new`](super::hashing::Hasher::hash_new).
    pub fn check(&self, text: &str, username: &str, email: &str) -> Result<Password, Refusal> {
        let password = Password::parse(text)?;
        let chars = password.expose().chars().count();
        if chars < self.min_chars {
            return Err(Refusal::new("length", format!("must have at least {} characters; add some", self.min_chars)));
        }
        let local_part = email.split('@').next().unwrap_or_default();
        let own = [username, email, local_part];
        let lower = Zeroizing::new(password.expose().to_lowercase());
        if own.iter().any(|name| *lower == name.to_lowercase()) {
            let message = "must not be the user's own name or address; choose something that is not known about them";
            return Err(Refusal::new("own_name", message));
        }
        if self.listed.binary_search(&fingerprint(&lower)).is_ok() {
            let message = "is on a list of common passwords, which are tried first; choose another";
            return Err(Refusal::new("common", message));
        }
        refuse_guessable(password.expose(), &own)?;
        Ok(password)
    }
}

/// The shipped entries.
fn shipped() -> impl Iterator<Item = &'static str> {
    COMMON.lines().filter(|line| !line.starts_with(COMMENT))
}

/// Equal for all spellings of a password in upper and lower case. Good within this process only. Beside a list of ten
/// million, one good password in 10^12 has the fingerprint of another and is refused.
fn fingerprint(password: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for c in password.nfc().flat_map(char::to_lowercase) {
        c.hash(&mut hasher);
    }
    hasher.finish()
}

/// Refuses what a guesser who knows words, names, dates, keyboards and this user finds within a million tries.
/// Source: zxcvbn (Wheeler, USENIX Security 2016), score below 2.
fn refuse_guessable(password: &str, own: &[&str]) -> Result<(), Refusal> {
    let beginning = Zeroizing::new(password.chars().take(ESTIMATED_CHARS).collect::<String>());
    let estimate = zxcvbn(&beginning, own);
    if estimate.score() >= Score::Two {
        return Ok(());
    }
    let warning = estimate.feedback().and_then(|feedback| feedback.warning());
    let reason = warning.map(|warning| format!(" ({})", warning.to_string().trim_end_matches('.')));
    let reason = reason.unwrap_or_default();
    let message = format!("is too easy to guess{reason}; make it longer, for example with a few unrelated words");
    Err(Refusal::new("guessable", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRONG: &str = "tide Mural-quench";

    fn policy() -> Policy {
        Policy::load(8, None).unwrap()
    }

    fn rule(policy: &Policy, text: &str) -> &'static str {
        policy.check(text, "alice", "alice.liddell@example.org").err().map_or("accepted", |refusal| refusal.rule)
    }

    /// Text without a pattern, `chars` code points long.
    fn unpredictable(chars: usize) -> String {
        let mut state = 7_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'!' + (state >> 16) as u8 % 94)
        };
        std::iter::repeat_with(next).take(chars).collect()
    }

    #[test]
    fn s01_lengths_in_code_points() {
        let policy = policy();
        for (chars, expected) in
            [(0, "length"), (7, "length"), (8, "accepted"), (64, "accepted"), (128, "accepted"), (129, "length")]
        {
            assert_eq!(rule(&policy, &unpredictable(chars)), expected, "{chars} characters");
        }
        // Four-byte code points count as one each; a letter and its combining accent as the one that they make.
        assert_eq!(
            rule(&policy, "\u{1f511}\u{1f98a}\u{1f40c}\u{1f3b2}\u{1f9c2}\u{1f6f6}\u{1f33b}\u{1f9e6}"),
            "accepted"
        );
        assert_eq!(rule(&policy, "\u{1f511}\u{1f98a}\u{1f40c}\u{1f3b2}\u{1f9c2}\u{1f6f6}\u{1f33b}"), "length");
        assert_eq!(rule(&policy, "xe\u{301}qo\u{308}vu\u{300}k"), "length");
        assert!(Password::parse(&"e\u{301}".repeat(128)).is_ok());
        assert!(Password::parse(&"e\u{301}".repeat(129)).is_err());
        assert!(Password::parse("").is_ok()); // at a login it is just wrong
    }

    #[test]
    fn s01_more_than_1024_bytes_are_refused_before_normalising() {
        assert!(Password::parse(&"\u{1f511}".repeat(128)).is_ok());
        // 1,024 and 1,027 bytes of what would be one long code point sequence of few characters.
        assert!(Password::parse(&"\u{1100}\u{1161}\u{11a8}".repeat(113)).is_ok());
        assert_eq!(Password::parse(&"\u{1100}\u{1161}\u{11a8}".repeat(114)).unwrap_err().rule, "length");
    }

    #[test]
    fn s01_any_characters_and_no_composition() {
        let policy = policy();
        for text in [
            STRONG,
            "gravel otter minus",
            "83519027446",
            "\0\u{1}\u{7f}\u{ad}\u{200b}k\u{202e}q",
            "жаба летит пешком",
            "   q   v   8",
        ] {
            assert_eq!(rule(&policy, text), "accepted", "{text:?}");
        }
    }

    #[test]
    fn s02_a_password_is_normalised_once_and_nothing_else() {
        let same = Password::parse("e\u{301}").unwrap();
        assert_eq!(same.expose(), "\u{e9}");
        for text in ["A\u{fb01}\u{2075}", "a\u{a0}b", " a ", "\u{212b}x"] {
            let expected: String = text.nfc().collect();
            assert_eq!(Password::parse(text).unwrap().expose(), expected);
        }
        assert_eq!(Password::parse("\u{fb01}").unwrap().expose(), "\u{fb01}"); // a ligature stays one: NFC, not NFKC
    }

    #[test]
    fn s05_every_entry_of_the_shipped_list_is_refused() {
        let policy = policy();
        let entries: Vec<_> = shipped().filter(|entry| entry.chars().count() >= 8).collect();
        assert!(entries.len() >= 3000, "{}", entries.len());
        for entry in entries {
            assert_eq!(rule(&policy, entry), "common", "{entry}");
            assert_eq!(rule(&policy, &entry.to_uppercase()), "common", "{entry}");
        }
    }

    #[test]
    fn s05_a_list_file_adds_to_the_shipped_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"Tide Mural-Quench\r\n# not a comment\ncaf\xe9 noir\n\nlast one, cafe\xcc\x81")
            .unwrap();
        let policy = Policy::load(8, Some(file.path())).unwrap();
        for text in [STRONG, "# NOT a comment", "last one, caf\u{e9}", "password1"] {
            assert_eq!(rule(&policy, text), "common", "{text}");
        }
        assert_eq!(rule(&policy, "tide mural quench"), "accepted");

        let missing = Policy::load(8, Some(Path::new("there/is/no/such/file"))).err().unwrap();
        assert!(matches!(missing, PolicyError::List(_)), "{missing}");
    }

    #[test]
    fn s05_own_names_are_refused() {
        let policy = policy();
        let check = |text: &str| policy.check(text, "mural-quench", "tide.orchid@grove.example").err().map(|r| r.rule);
        for text in
            ["mural-quench", "Mural-QUENCH", "tide.orchid@grove.example", "TIDE.orchid@grove.example", "Tide.Orchid"]
        {
            assert_eq!(check(text), Some("own_name"), "{text}");
        }
        assert_eq!(check("mural-quench1"), Some("guessable"));
        assert_eq!(check(STRONG), None);
        assert!(policy.check(STRONG, "alice", "").is_ok());
    }

    #[test]
    fn s05_guessable_ones_are_refused() {
        let policy = policy();
        for text in ["abcabcabcabc", "zyxwvutsrqp", "alice1234", "P4ssword!", "1987-04-23", &"x".repeat(128)] {
            assert_eq!(rule(&policy, text), "guessable", "{text}");
        }
    }

    #[test]
    fn s05_a_refusal_says_why_and_what_to_do() {
        let policy = policy();
        for (text, why) in [
            ("short", "at least 8"),
            (&*"x".repeat(129), "at most 128"),
            ("password1", "common"),
            ("alice.liddell", "own name"),
            ("abcabcabcabc", "easy to guess (Repeats"),
        ] {
            let refusal = policy.check(text, "alice", "alice.liddell@example.org").err().unwrap();
            assert!(refusal.message.contains(why) && refusal.message.contains(';'), "{refusal}");
            assert!(!refusal.message.contains(text));
        }
    }

    #[test]
    fn a_minimum_out_of_range_is_refused() {
        for min_chars in [0, 7, 129] {
            assert!(matches!(Policy::load(min_chars, None), Err(PolicyError::Minimum)));
        }
        let strict = Policy::load(20, None).unwrap();
        assert_eq!(rule(&strict, STRONG), "length");
    }
}
