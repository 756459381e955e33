//! One setting read and checked after another, and what is wrong with them collected.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::auth::keys;
use crate::secret_file;

/// The secret that `.env.example` shows, which is therefore no secret.
pub(super) const SAMPLE_SECRET: &str = "replace-this-with-at-least-32-random-characters";
/// The shortest secret, in bytes (RFC 7518 §3.2: as long as the hash of HS256).
const SECRET_MIN_BYTES: usize = 32;

/// Whether a variable is addressed to us, whether known or not.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with("DOORWARD_") || matches!(name.strip_suffix("_FILE").unwrap_or(name), "JWT_SECRET" | "ES_URL")
}

/// Reads settings by their names.
pub(super) struct Reader {
    variables: BTreeMap<String, String>,
    /// What stops the start, one line each.
    pub(super) problems: Vec<String>,
    /// What is unwise.
    warnings: Vec<String>,
    /// The names that were asked for.
    known: Vec<&'static str>,
}

impl Reader {
    /// Of these variables, which already have these problems.
    pub(super) fn new(variables: BTreeMap<String, String>, problems: Vec<String>) -> Self {
        Self { variables, problems, warnings: Vec::new(), known: Vec::new() }
    }

    /// The text of a variable; unset and empty are the same.
    pub(super) fn optional(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.variables.get(name).filter(|text| !text.is_empty()).cloned()
    }

    pub(super) fn value<T: FromStr>(&mut self, name: &'static str, default: T, what: &str) -> T {
        let Some(text) = self.optional(name) else { return default };
        text.parse().unwrap_or_else(|_| {
            self.problems.push(format!("{name}: must be {what}"));
            default
        })
    }

    /// A value whose type says what is wrong with a text; the text is shown.
    pub(super) fn parsed<T: FromStr<Err = String> + Default>(&mut self, name: &'static str) -> T {
        let Some(text) = self.optional(name) else { return T::default() };
        text.parse().unwrap_or_else(|problem| {
            self.problems.push(format!("{name}: {problem}"));
            T::default()
        })
    }

    pub(super) fn number<T: FromStr + PartialOrd + Display>(
        &mut self,
        name: &'static str,
        default: T,
        min: T,
        max: T,
    ) -> T {
        let Some(text) = self.optional(name) else { return default };
        match text.parse() {
            Ok(number) if min <= number && number <= max => number,
            _ => {
                self.problems.push(format!("{name}: must be a whole number from {min} to {max}"));
                default
            }
        }
    }

    pub(super) fn seconds(&mut self, name: &'static str, default: u64, min: u64, max: u64) -> Duration {
        Duration::from_secs(self.number(name, default, min, max))
    }

    pub(super) fn milliseconds(&mut self, name: &'static str, default: u64, min: u64, max: u64) -> Duration {
        Duration::from_millis(self.number(name, default, min, max))
    }

    /// A secret, of its variable or of the file that the other one names. A newline at its end is not part of it: editors and
    /// `echo` put one there.
    pub(super) fn secret(&mut self, [name, file]: [&'static str; 2]) -> Option<SecretString> {
        let (text, path) = (self.optional(name), self.optional(file));
        if text.is_some() && path.is_some() {
            self.problems.push(format!("{file}: cannot be set together with {name}"));
        }
        let text = match path {
            None => Zeroizing::new(text?),
            Some(path) => self.file(file, Path::new(&path)),
        };
        let ending = ["\r\n", "\n"].into_iter().find_map(|ending| text.strip_suffix(ending));
        Some(SecretString::from(ending.unwrap_or(&text)))
    }

    /// What a file holds; nothing where there is a problem with it.
    fn file(&mut self, name: &'static str, path: &Path) -> Zeroizing<String> {
        match secret_file::read(path) {
            Ok(read) => {
                self.warnings.extend(read.warning.map(|warning| format!("{name}: {warning}")));
                if read.text.trim().is_empty() {
                    self.problems.push(format!("{name}: is empty"));
                }
                read.text
            }
            Err(problem) => {
                self.problems.push(format!("{name}: {problem}"));
                Zeroizing::default()
            }
        }
    }

    /// A secret that is a key, and so long enough to be one.
    pub(super) fn key_text(&mut self, names: [&'static str; 2]) -> Option<SecretString> {
        let problems = self.problems.len();
        let secret = self.secret(names)?;
        let [name, file] = names;
        let name = if self.optional(file).is_some() { file } else { name };
        if self.problems.len() > problems {
            // One problem of a setting is enough.
        } else if secret.expose_secret().len() < SECRET_MIN_BYTES {
            self.problems.push(format!("{name}: must have at least {SECRET_MIN_BYTES} bytes"));
        } else if secret.expose_secret() == SAMPLE_SECRET {
            self.problems.push(format!("{name}: is still the sample's; make one of your own"));
        }
        Some(secret)
    }

    pub(super) fn key(&mut self, name: &'static str) -> Option<SigningKey> {
        let path = PathBuf::from(self.optional(name)?);
        let problems = self.problems.len();
        let text = self.file(name, &path);
        if self.problems.len() > problems {
            return None;
        }
        keys::from_pem(&text).map_err(|problem| self.problems.push(format!("{name}: {problem}"))).ok()
    }

    /// The warnings. Errors: every problem, also with names that were not asked for.
    pub(super) fn finish(mut self) -> Result<Vec<String>, Vec<String>> {
        for name in self.variables.keys().filter(|name| is_ours(name) && !self.known.contains(&name.as_str())) {
            let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
            self.problems.push(format!("{name}: is not a setting; .env.example lists them all"));
        }
        if self.problems.is_empty() { Ok(self.warnings) } else { Err(self.problems) }
    }
}
