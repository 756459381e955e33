//! The file `.env`. Values are to the letter: nothing in them is substituted, neither `$` nor a backslash.
//!
//! ```text
//! line  = [ "export" ] NAME "=" value [ comment ]  |  comment  |  nothing
//! value = "'" any but ' "'"  |  '"' any but " '"'  |  text up to a comment, without the blanks around it
//! ```
//!
//! A comment begins with `#`, at the beginning of a line or behind a blank. Each line is a setting of its own; of two with one
//! name the latter counts. A byte order mark and Windows' ends of lines are no fault.

/// A setting.
#[derive(Debug, PartialEq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The line that it is in, counted from 1.
    pub line: usize,
}

/// Reads a file. Errors: what is wrong with a line, and nothing of what it holds.
pub fn parse(file: &[u8]) -> impl Iterator<Item = Result<Set, String>> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    file.split(|&byte| byte == b'\n').zip(1..).filter_map(|(text, line)| {
        let set = std::str::from_utf8(text).map_err(|_| "is not UTF-8").and_then(setting).transpose()?;
        Some(match set {
            Ok((name, value)) => Ok(Set { name: name.to_owned(), value: value.to_owned(), line }),
            Err(problem) => Err(format!("line {line}: {problem}")),
        })
    })
}

/// The name and value of a line; `None` where it has none.
fn setting(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, rest) = line.split_once('=').ok_or("is not NAME=value")?;
    let name = name.trim_end();
    let name = name.strip_prefix("export").filter(|name| name.starts_with([' ', '\t'])).unwrap_or(name).trim_start();
    let legal = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    if !name.bytes().all(legal) || name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
        return Err("is not NAME=value");
    }
    let value = rest.trim_start();
    for quote in ['\'', '"'] {
        if let Some(quoted) = value.strip_prefix(quote) {
            let (value, behind) = quoted.split_once(quote).ok_or("a quote is opened and not closed")?;
            let behind = behind.trim_start();
            return match behind.is_empty() || behind.starts_with('#') {
                true => Ok(Some((name, value))),
                false => Err("there is something behind the closing quote"),
            };
        }
    }
    let comment = rest.match_indices('#').map(|(at, _)| at).find(|&at| rest[..at].ends_with([' ', '\t']));
    Ok(Some((name, rest[..comment.unwrap_or(rest.len())].trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<String, String> {
        let mut sets = parse(text.as_bytes());
        let set = sets.next().expect("there is a setting")?;
        assert_eq!((set.name.as_str(), set.line, sets.next()), ("NAME", 1, None));
        Ok(set.value)
    }

    #[test]
    fn a_value_is_to_the_letter() {
        for (line, expected) in [
            ("NAME=pa$word", "pa$word"),
            ("NAME=pa$HOME${HOME}$$", "pa$HOME${HOME}$$"),
            (r#"NAME="pa$word""#, "pa$word"),
            ("NAME='pa$word'", "pa$word"),
            (r#"NAME="it's \n # \\ $HOME""#, r"it's \n # \\ $HOME"),
            (r#"NAME='a "word" \'"#, r#"a "word" \"#),
            (r#"NAME=pa"ss'wo\rd"#, r#"pa"ss'wo\rd"#),
            ("NAME=two words", "two words"),
            ("NAME=a#b", "a#b"),
            ("NAME=#b", "#b"),
            ("NAME=a=b==", "a=b=="),
            ("NAME=a # a comment", "a"),
            ("NAME=a\t# a comment", "a"),
            ("NAME= # a comment", ""),
            ("NAME=", ""),
            ("NAME=''", ""),
            ("NAME=' a '", " a "),
            ("NAME='a' # a 'comment'", "a"),
            ("  export  NAME =  a  ", "a"),
            ("export\tNAME=a", "a"),
            ("\u{feff}NAME=a\r\n", "a"),
            ("NAME=ü", "ü"),
        ] {
            assert_eq!(value(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_its_content() {
        for (text, line) in [
            ("NAME", 1),
            ("\n# a comment\n\nno setting", 4),
            ("exportNAME", 1),
            ("my name=1", 1),
            ("1NAME=1", 1),
            ("NA-ME=1", 1),
            ("=1", 1),
            ("NAME='1", 1),
            ("NAME=\"1\nmore\"", 1),
            ("NAME='1'2", 1),
        ] {
            let problem = parse(text.as_bytes()).find_map(Result::err).expect(text);
            assert!(problem.starts_with(&format!("line {line}: ")), "{text}: {problem}");
        }
        let problem = parse(b"A=1\nB=\xff\n").find_map(Result::err);
        assert_eq!(problem.as_deref(), Some("line 2: is not UTF-8"));
    }
}
