//! Folding: the form in which text is compared, sorted and searched, the same in every store.
//!
//! Folding never leaves the gateway: users see their text as they wrote it.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Text as it is compared: NFKD without marks, in lower case, and a few letters that have no
/// decomposition as the plain letters people type for them (`Ł` is `l`, `ß` is `ss`).
///
/// Folding is done code point by code point: the fold of a text is the folds of its code points, joined.
pub fn fold(text: &str) -> String {
    text.chars().flat_map(fold_char).collect()
}

/// The fold of one code point: nothing for a mark, one or more code points otherwise.
pub fn fold_char(c: char) -> impl Iterator<Item = char> {
    // Marks are the only code points that normalisation reorders, so it can be done one by one.
    std::iter::once(c).nfkd().flat_map(char::to_lowercase).filter(|&c| !is_combining_mark(c)).flat_map(plain)
}

/// The longest word, in code points: what is beyond is not looked at. Elasticsearch would split it (at 255 units of
/// UTF-16).
const WORD_MAX_CHARS: usize = 100;

/// Distinct words of a text, folded, in their order: the longest runs of letters and digits.
pub fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in fold(text).split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
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

    use super::*;

    #[test]
    fn case_accents_and_widths_do_not_matter() {
        for (one, other) in [
            ("José", "JOSE\u{301}"),
            ("Ångström", "angstrom"),
            ("ΟΔΥΣΣΕΥΣ", "Οδυσσεύς"),
            ("ЁЛКА", "елка"),
            ("ＡＢＣ１", "abc1"),
            ("ﬁnn", "FINN"),
            ("IŞIK", "ışık"),
            ("Łukasz Großmann", "lukasz grossmann"),
            ("مُحَمَّد", "محمد"),
        ] {
            assert_eq!(fold(one), fold(other), "{one} {other}");
        }
    }

    #[test]
    fn words_are_split_at_everything_but_letters_and_digits() {
        assert_eq!(words("anna.lena_42-x Anna-Lena"), ["anna", "lena", "42", "x"]);
        assert_eq!(words("李明 (Li Ming)"), ["李明", "li", "ming"]);
        assert_eq!(words(" .-_ "), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn folding_twice_is_folding_once(text in any::<String>()) {
            let once = fold(&text);
            prop_assert_eq!(fold(&once), once);
        }

        #[test]
        fn folding_ignores_how_a_text_is_composed(text in any::<String>()) {
            prop_assert_eq!(fold(&text.nfc().collect::<String>()), fold(&text));
            prop_assert_eq!(fold(&text.nfd().collect::<String>()), fold(&text));
        }

        #[test]
        fn ascii_names_fold_to_lower_case(name in "[A-Za-z0-9._@-]{0,40}") {
            prop_assert_eq!(fold(&name), name.to_ascii_lowercase());
        }
    }
}
