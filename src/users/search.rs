//! When a word finds a user, and where in their names: the rules that both stores answer by.
//!
//! Ranking inside one class, and the index that makes it fast, are the store's affair.

use super::User;
use super::fold::{is_of_word, pieces, words};

/// How well a word of the query matches a word of a user. A lesser one is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The same word.
    Exact,
    /// The user's word begins with it, or holds it where a script has no spaces.
    Prefix,
    /// The same within the edit distance.
    Fuzzy,
}

/// Words of a user that can be found: those of the username, then those of the display name, distinct.
pub fn words_of(user: &User) -> Vec<String> {
    words(&format!("{} {}", user.username, user.display_name))
}

/// Marks, in a store's index, what stands inside a word. No word holds a code point of private use.
const INSIDE: char = '\u{E000}';

/// Whether a letter is of a script that is written without spaces between what readers take for words: Han, kana,
/// bopomofo, and Hangul, in which family and given names stand together. Folded letters have one form each.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{3005}'..='\u{3007}' | '\u{3041}'..='\u{3096}' | '\u{309D}'..='\u{309F}' | '\u{30A1}'..='\u{30FF}'
        | '\u{3105}'..='\u{312F}' | '\u{31A0}'..='\u{31BF}' | '\u{31F0}'..='\u{31FF}' | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}' | '\u{F900}'..='\u{FAFF}' | '\u{1B000}'..='\u{1B16F}'
        | '\u{20000}'..='\u{3FFFF}')
}

/// What a store keeps of a user to find them by: their words, and each rest of a word that begins inside with an
/// unspaced letter, behind `INSIDE`.
pub fn terms_of(user: &User) -> Vec<String> {
    let mut terms = words_of(user);
    for at in 0..terms.len() {
        let word = terms[at].clone();
        let inside = word.char_indices().skip(1).filter(|&(_, c)| is_unspaced(c));
        for term in inside.map(|(start, _)| format!("{INSIDE}{}", &word[start..])) {
            if !terms.contains(&term) {
                terms.push(term);
            }
        }
    }
    terms
}

/// Whether a term is a word, and not only the rest of one.
pub fn is_word(term: &str) -> bool {
    !term.starts_with(INSIDE)
}

/// What the terms begin with in which a word of the query is found as a prefix.
pub fn beginnings(query_word: &str) -> Vec<String> {
    let inside = query_word.starts_with(is_unspaced).then(|| format!("{INSIDE}{query_word}"));
    std::iter::once(query_word.to_owned()).chain(inside).collect()
}

/// The best class in which a folded word of the query matches a folded word of a user.
pub fn match_class(query_word: &str, user_word: &str, fuzzy: bool) -> Option<Class> {
    if query_word == user_word {
        return Some(Class::Exact);
    }
    let is_inside = || query_word.starts_with(is_unspaced) && user_word.contains(query_word);
    if user_word.starts_with(query_word) || is_inside() {
        return Some(Class::Prefix);
    }
    let (query, word): (Vec<char>, Vec<char>) = (query_word.chars().collect(), user_word.chars().collect());
    (fuzzy && edits(&query, &word).is_some()).then_some(Class::Fuzzy)
}

/// The class of a user as a hit: that of the word that matches worst. `None` unless every word of the query
/// matches a word of the user.
pub fn match_user(query_words: &[String], user_words: &[String], fuzzy: bool) -> Option<Class> {
    let mut worst = Class::Exact;
    for query_word in query_words {
        worst = worst.max(user_words.iter().filter_map(|word| match_class(query_word, word, fuzzy)).min()?);
    }
    Some(worst)
}

/// The score of a hit of this class: 1, ½ or ¼.
pub fn score(class: Class) -> f64 {
    match class {
        Class::Exact => 1.0,
        Class::Prefix => 0.5,
        Class::Fuzzy => 0.25,
    }
}

/// The edits that a word of so many code points may differ by (Elasticsearch's `AUTO`).
pub fn edits_allowed(chars: usize) -> usize {
    match chars {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    }
}

/// The edits between a word of a query and another word: `None` when they are more than allowed for the query's, or
/// the first letters differ.
pub fn edits(query: &[char], word: &[char]) -> Option<usize> {
    let limit = edits_allowed(query.len());
    if limit == 0 || query.first() != word.first() || query.len().abs_diff(word.len()) > limit {
        return None;
    }
    edits_up_to(&query[1..], &word[1..], limit)
}

/// The optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours, no part
/// edited twice. `None` when it is more than `limit`.
///
/// Tries the edits one by one: with limits as small as these it is over sooner than filling a table would be.
fn edits_up_to(one: &[char], other: &[char], limit: usize) -> Option<usize> {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let (one, other) = (&one[same..], &other[same..]);
    let (Some((first, one_rest)), Some((second, other_rest))) = (one.split_first(), other.split_first()) else {
        return Some(one.len().max(other.len())).filter(|&edits| edits <= limit);
    };
    if limit == 0 || one.len().abs_diff(other.len()) > limit {
        return None;
    }
    let is_swap = one_rest.first() == Some(second) && other_rest.first() == Some(first);
    let swapped = is_swap.then(|| edits_up_to(&one_rest[1..], &other_rest[1..], limit - 1));
    [
        edits_up_to(one_rest, other_rest, limit - 1),
        edits_up_to(one_rest, other, limit - 1),
        edits_up_to(one, other_rest, limit - 1),
        swapped.flatten(),
    ]
    .into_iter()
    .flatten()
    .min()
    .map(|edits| edits + 1)
}

/// Where `text` matches: `[start, end)` in code points of the text as it is written, one range a word that some
/// word of the query matches, in order, touching or overlapping ones joined.
pub fn highlights(text: &str, query_words: &[String], fuzzy: bool) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for (start, end, word) in located_words(text) {
        if !query_words.iter().any(|query_word| match_class(query_word, &word, fuzzy).is_some()) {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            _ => ranges.push((start, end)),
        }
    }
    ranges
}

/// Folded words of a text with the range of code points that each came from. One code point can hold several
/// words (`㏂` is "a.m."), and what folds to nothing belongs to the word that it follows.
fn located_words(text: &str) -> Vec<(usize, usize, String)> {
    let mut found: Vec<(usize, usize, String)> = Vec::new();
    let mut in_word = false;
    let pieces = pieces(text);
    let ends = pieces.iter().skip(1).map(|&(start, _)| start).chain([text.chars().count()]);
    for ((start, folded), end) in pieces.iter().zip(ends) {
        for c in folded.chars() {
            let continues = in_word;
            in_word = is_of_word(c, in_word);
            match found.last_mut().filter(|_| continues) {
                _ if !in_word => {}
                Some((_, word_end, word)) => {
                    word.push(c);
                    *word_end = end;
                }
                None => found.push((*start, end, c.to_string())),
            }
        }
        if let Some((_, word_end, _)) = found.last_mut().filter(|_| in_word && folded.is_empty()) {
            *word_end = end;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_word_matches_exactly_as_a_prefix_or_nearly() {
        for (query, word, class) in [
            ("anna", "anna", Some(Class::Exact)),
            ("an", "anna", Some(Class::Prefix)),
            ("anan", "anna", Some(Class::Fuzzy)),
            ("ana", "anna", Some(Class::Fuzzy)),
            ("an", "am", None),
            ("anna", "hanna", None),
            ("anna", "lena", None),
            ("michael", "micheal", Some(Class::Fuzzy)),
            ("michael", "mihcale", Some(Class::Fuzzy)),
            ("michael", "mikaela", None),
            ("сергей", "сергий", Some(Class::Fuzzy)),
            ("明华", "李明华", Some(Class::Prefix)),
            ("민수", "김민수", Some(Class::Prefix)),
            ("明李", "李明华", None),
            ("nna", "anna", None),
        ] {
            assert_eq!(match_class(query, word, true), class, "{query} {word}");
        }
        assert_eq!(match_class("anan", "anna", false), None);
    }

    #[test]
    fn every_word_of_the_query_must_match() {
        let query = |text: &str| words(text);
        let user = words("anna.schmidt Anna Schmidt");
        assert_eq!(match_user(&query("anna schmidt"), &user, true), Some(Class::Exact));
        assert_eq!(match_user(&query("schm anna"), &user, true), Some(Class::Prefix));
        assert_eq!(match_user(&query("schmitd anna"), &user, true), Some(Class::Fuzzy));
        assert_eq!(match_user(&query("anna mayer"), &user, true), None);
    }

    #[test]
    fn highlights_count_code_points_of_the_original() {
        let ranges = |text: &str, query: &str| highlights(text, &words(query), true);
        assert_eq!(ranges("Jose\u{301} Álvarez", "jose alv"), [(0, 5), (6, 13)]);
        assert_eq!(ranges("<b>Groß & Co", "gross"), [(3, 7)]);
        assert_eq!(ranges("🦀 李明", "李"), [(2, 4)]);
        assert_eq!(ranges("ﬁnn x", "finn"), [(0, 3)]);
        assert_eq!(ranges("9㏂", "m"), [(1, 2)]);
        assert_eq!(ranges("👩 राम ﾊﾟﾊﾟ", "राम パパ"), [(2, 5), (6, 10)]);
        assert_eq!(ranges("می\u{200C}خواهم!", "میخواهم"), [(0, 8)]);
        assert_eq!(ranges("nobody", "anna"), []);
    }

    /// The definition, word for word.
    fn plain_distance(a: &[char], b: &[char]) -> usize {
        let (Some((x, a_rest)), Some((y, b_rest))) = (a.split_last(), b.split_last()) else {
            return a.len().max(b.len());
        };
        let mut least = plain_distance(a_rest, b_rest) + usize::from(x != y);
        least = least.min(plain_distance(a_rest, b) + 1).min(plain_distance(a, b_rest) + 1);
        if a.len() > 1 && b.len() > 1 && a[a.len() - 2] == *y && b[b.len() - 2] == *x {
            least = least.min(plain_distance(&a[..a.len() - 2], &b[..b.len() - 2]) + 1);
        }
        least
    }

    proptest! {
        #[test]
        fn the_distance_is_the_defined_one(a in "[ab]{0,6}", b in "[abc]{0,6}", limit in 0_usize..4) {
            let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            let plain = plain_distance(&a, &b);
            prop_assert_eq!(edits_up_to(&a, &b, limit), Some(plain).filter(|&edits| edits <= limit));
        }

        #[test]
        fn located_words_are_the_words(text in any::<String>()) {
            let length = text.chars().count();
            let mut distinct: Vec<String> = Vec::new();
            for (start, end, word) in located_words(&text) {
                prop_assert!(start < end && end <= length);
                if !distinct.contains(&word) {
                    distinct.push(word);
                }
            }
            prop_assert_eq!(distinct, words(&text));
        }
    }
}
