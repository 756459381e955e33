//! Folding: the form in which text is compared, sorted and searched, the same in every store.
//!
//! Folding never leaves the gateway: users see their text as they wrote it. `tests/data/folding.json` has vectors. What a
//! text folds to is kept by the stores: a change here is a new version of their schemas and of cursors.

use unicode_normalization::char::{compose, is_combining_mark};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The marks that readers of a script leave out without meaning another text, in the order of their code points. All
/// others are kept: voicing marks of kana, vowel and tone signs of Indic scripts, Thai and their neighbours, hamza and
/// madda.
///
/// Source: the marks (general category M) of these blocks and ranges in the Unicode Character Database: accents with the
/// scripts Inherited, Cyrillic, Hebrew and Arabic, and the selectors among shapes of one character.
const OPTIONAL_MARKS: [(char, char); 25] = [
    ('\u{300}', '\u{36F}'), // accents of Latin, Greek and Cyrillic
    ('\u{483}', '\u{487}'), // titlo, palatalization and breathings of Old Cyrillic
    ('\u{591}', '\u{5BD}'), // Hebrew cantillation and points
    ('\u{5BF}', '\u{5BF}'), // rafe
    ('\u{5C1}', '\u{5C2}'), // shin and sin dots
    ('\u{5C4}', '\u{5C5}'), // puncta
    ('\u{5C7}', '\u{5C7}'), // qamats qatan
    ('\u{610}', '\u{61A}'), // Arabic honorifics and small vowels
    ('\u{64B}', '\u{652}'), // harakat
    ('\u{656}', '\u{65F}'), // harakat of other languages
    ('\u{670}', '\u{670}'), // superscript alef
    ('\u{6D6}', '\u{6DC}'), // Koranic annotation, to 6ED
    ('\u{6DF}', '\u{6E4}'),
    ('\u{6E7}', '\u{6E8}'),
    ('\u{6EA}', '\u{6ED}'),
    ('\u{897}', '\u{89F}'), // extensions of the same
    ('\u{8CA}', '\u{8FF}'),
    ('\u{180B}', '\u{180F}'),   // Mongolian variation selectors
    ('\u{1AB0}', '\u{1AFF}'),   // accents, extended
    ('\u{1DC0}', '\u{1DFF}'),   // accents, supplement
    ('\u{20D0}', '\u{20FF}'),   // marks of symbols
    ('\u{FB1E}', '\u{FB1E}'),   // Hebrew varika
    ('\u{FE00}', '\u{FE0F}'),   // variation selectors
    ('\u{FE20}', '\u{FE2F}'),   // halves of accents
    ('\u{E0100}', '\u{E01EF}'), // variation selectors, supplement
];

/// What joins its neighbours or keeps them apart and is no text itself: zero width non-joiner and joiner.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200C}' | '\u{200D}')
}

/// Whether a mark that follows `base` makes another text.
///
/// In Cyrillic a mark that composes with its letter makes another one (й, ё, ї, ў, ќ), but for the grave of ѐ and ѝ, which
/// is a stress.
fn is_kept(base: char, mark: char) -> bool {
    let optional = OPTIONAL_MARKS.iter().any(|&(first, last)| (first..=last).contains(&mark));
    let is_letter = matches!(base, '\u{400}'..='\u{52F}') && mark != '\u{300}' && compose(base, mark).is_some();
    !optional || is_letter
}

/// Text as it is compared: in lower case, without optional marks, the shapes of one character as one (NFKC), and a few
/// letters that have no decomposition as the plain letters people type for them (`Ł` is `l`, `ß` is `ss`).
pub fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut base = '\0';
    let kept = text.nfkd().flat_map(char::to_lowercase).filter(|&c| {
        if is_joiner(c) {
            return false;
        }
        if is_combining_mark(c) {
            return is_kept(base, c);
        }
        base = c;
        true
    });
    kept.flat_map(plain).nfc().collect()
}

/// The pieces of a text that fold each on its own: where each begins, in code points, and its fold. A piece is a code
/// point with all behind that could change what becomes of it. The fold of a text is the folds of its pieces, joined.
pub fn pieces(text: &str) -> Vec<(usize, String)> {
    let mut starts: Vec<(usize, usize)> = Vec::new();
    for (at, (byte, c)) in text.char_indices().enumerate() {
        let first = std::iter::once(c).nfkd().next().unwrap_or(c);
        // What may compose with the code point before is not quickly seen to be in NFC.
        let is_behind =
            is_joiner(c) || is_combining_mark(first) || is_nfc_quick(std::iter::once(first)) == IsNormalized::Maybe;
        if !is_behind || starts.is_empty() {
            starts.push((at, byte));
        }
    }
    let ends = starts.iter().skip(1).map(|&(_, byte)| byte).chain([text.len()]);
    starts.iter().zip(ends).map(|(&(at, byte), end)| (at, fold(&text[byte..end]))).collect()
}

/// The longest word, in code points: what is beyond is not looked at. Elasticsearch would split it (at 255 units of
/// UTF-16).
const WORD_MAX_CHARS: usize = 100;

/// Whether a code point belongs to a word: letters and digits do, and marks behind one.
pub fn is_of_word(c: char, in_word: bool) -> bool {
    c.is_alphanumeric() || (in_word && is_combining_mark(c))
}

/// Distinct words of a text, folded, in their order: the longest runs of letters and digits with their marks.
pub fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut in_word = false;
    let folded = fold(text);
    let separated = folded.split(|c: char| {
        in_word = is_of_word(c, in_word);
        !in_word
    });
    for word in separated.filter(|word| !word.is_empty()) {
        let word: String = word.chars().take(WORD_MAX_CHARS).collect();
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// Letters of which Unicode knows no decomposition although their readers see a plain letter with a stroke, a
/// ligature, or another shape of the same letter. Without `ı` and `ς`, upper and lower case would differ.
fn plain(c: char) -> impl Iterator<Item = char> {
    let (first, second) = match c {
        'ß' => ('s', Some('s')),
        'æ' => ('a', Some('e')),
        'œ' => ('o', Some('e')),
        'þ' => ('t', Some('h')),
        'ø' => ('o', None),
        'ł' => ('l', None),
        'đ' | 'ð' => ('d', None),
        'ħ' => ('h', None),
        'ı' => ('i', None),
        'ς' => ('σ', None),
        c => (c, None),
    };
    std::iter::once(first).chain(second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// What the file of vectors says of them.
    #[derive(Deserialize)]
    struct Vectors {
        folds: Vec<(String, String)>,
        equal: Vec<Vec<String>>,
        different: Vec<Vec<String>>,
        words: Vec<(String, Vec<String>)>,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("../../tests/data/folding.json")).unwrap()
    }

    #[test]
    fn texts_fold_as_the_vectors_say() {
        let vectors = vectors();
        for (text, folded) in vectors.folds {
            assert_eq!(fold(&text), folded, "{text}");
        }
        for texts in vectors.equal {
            assert!(texts.iter().all(|text| fold(text) == fold(&texts[0])), "{texts:?}");
        }
        for texts in vectors.different {
            let distinct: std::collections::BTreeSet<_> = texts.iter().map(|text| fold(text)).collect();
            assert_eq!(distinct.len(), texts.len(), "{texts:?}");
        }
        for (text, expected) in vectors.words {
            assert_eq!(words(&text), expected, "{text}");
        }
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(OPTIONAL_MARKS.is_sorted_by(|one, other| one.1 < other.0));
        assert!(OPTIONAL_MARKS.iter().all(|(first, last)| first <= last));
    }

    /// Any text, often with marks and letters that take them.
    fn text() -> impl Strategy<Value = String> {
        let tricky: Vec<char> = "иИеЕёй\u{306}\u{308}\u{301}\u{300}ハはパ\u{3099}\u{309A}ﾊﾟक\u{93C}\u{93F}\u{94D}กิุ\u{E48}ل\u{64B}\u{654}\u{200D}\u{200C}\u{FE0F}가\u{1161}\u{11A8}\u{9C7}\u{9BE}Zı ".chars().collect();
        prop_oneof![
            any::<String>(),
            prop::collection::vec(prop::sample::select(tricky), 0..12).prop_map(|chars| chars.into_iter().collect()),
        ]
    }

    proptest! {
        #[test]
        fn folding_twice_is_folding_once(text in text()) {
            let once = fold(&text);
            prop_assert_eq!(fold(&once), once);
        }

        #[test]
        fn folding_ignores_how_a_text_is_composed(text in text()) {
            prop_assert_eq!(fold(&text.nfc().collect::<String>()), fold(&text));
            prop_assert_eq!(fold(&text.nfd().collect::<String>()), fold(&text));
        }

        #[test]
        fn pieces_fold_to_what_the_whole_folds_to(text in text()) {
            let joined: String = pieces(&text).into_iter().map(|(_, folded)| folded).collect();
            prop_assert_eq!(joined, fold(&text));
        }

        #[test]
        fn ascii_names_fold_to_lower_case(name in "[A-Za-z0-9._@-]{0,40}") {
            prop_assert_eq!(fold(&name), name.to_ascii_lowercase());
        }
    }
}
