//! What people may write of themselves: the code points of names and of longer texts.
//!
//! A name stands alone where others recognise somebody by it, so it holds nothing that is not seen and nothing that
//! turns the line around. That two names look alike (UTS 39 calls them confusable: `а` of Cyrillic for `a`, rows of
//! marks, spaces) is not refused: usernames are ASCII, and they are what is unique.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use super::user::Refusal;

/// Brings a text to NFC and refuses what is longer than `max_chars` code points or holds control characters
/// (`newlines` allows line feeds), controls of the writing direction, or code points that mean nothing to all readers.
pub fn free_text(text: &str, max_chars: usize, newlines: bool) -> Result<String, Refusal> {
    let too_long = || Refusal::new("length", format!("must have at most {max_chars} characters"));
    // NFC never makes text more than three times as long or as short, so this bounds the work.
    if text.len() > max_chars * 4 * 3 {
        return Err(too_long());
    }
    let text: String = text.nfc().collect();
    if text.chars().count() > max_chars {
        return Err(too_long());
    }
    text.chars().filter(|&c| !(newlines && c == '\n')).try_for_each(check)?;
    Ok(text)
}

/// A [`free_text`] of one line in which every code point, but for spaces, is seen, or needed by those that are.
pub fn name(text: &str, max_chars: usize) -> Result<String, Refusal> {
    let text = free_text(text, max_chars, false)?;
    let chars: Vec<char> = text.trim().chars().collect();
    if chars.iter().any(|c| matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err(control_characters());
    }
    let is_seen = chars.iter().any(|&c| is_visible(c));
    let hidden = (0..chars.len()).find(|&at| is_ignorable(chars[at]) && !is_needed(&chars, at));
    if let Some(at) = hidden.or((!is_seen && !chars.is_empty()).then_some(0)) {
        let code = u32::from(chars[at]);
        return Err(Refusal::new("invisible", format!("must not hold what is not seen, such as U+{code:04X} here")));
    }
    Ok(chars.into_iter().collect())
}

fn control_characters() -> Refusal {
    Refusal::new("control_characters", "must not contain control characters")
}

/// What no text of a user may hold.
fn check(c: char) -> Result<(), Refusal> {
    let code = u32::from(c);
    match c.general_category() {
        GeneralCategory::Control => Err(control_characters()),
        _ if matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}') => {
            let message = format!("must not hold controls of the writing direction, such as U+{code:04X}");
            Err(Refusal::new("bidi_controls", message))
        }
        GeneralCategory::PrivateUse | GeneralCategory::Unassigned | GeneralCategory::Surrogate => {
            let message = format!("must not hold private or unassigned code points, such as U+{code:04X}");
            Err(Refusal::new("code_points", message))
        }
        _ => Ok(()),
    }
}

/// Whether a code point alone leaves nothing to see: `Default_Ignorable_Code_Point` of the Unicode Character Database,
/// the anchors of annotations, and the braille pattern without dots.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// Whether a code point is seen by itself: neither ignorable, nor a space, nor a mark.
fn is_visible(c: char) -> bool {
    use GeneralCategoryGroup::{Mark, Other, Separator};
    let is_format = c.general_category() == GeneralCategory::Format;
    !is_ignorable(c) && (is_format || !matches!(c.general_category_group(), Mark | Other | Separator))
}

/// Whether an ignorable code point stands where its neighbours need it: a variation selector behind what it chooses a
/// shape of, the tags of a flag, a joiner between parts of an emoji or letters that join or stack.
fn is_needed(chars: &[char], at: usize) -> bool {
    let Some(&before) = at.checked_sub(1).and_then(|before| chars.get(before)) else { return false };
    let is_selector = |c: char| matches!(c, '\u{FE00}'..='\u{FE0F}' | '\u{180B}'..='\u{180D}' | '\u{180F}' | '\u{E0100}'..='\u{E01EF}');
    match chars[at] {
        c if is_selector(c) => is_visible(before),
        '\u{E0020}'..='\u{E007F}' => before == '\u{1F3F4}' || matches!(before, '\u{E0020}'..='\u{E007E}'),
        '\u{200C}' | '\u{200D}' => {
            let joined = chars[..at].iter().rev().find(|&&c| !is_selector(c));
            let is_between = chars.get(at + 1).is_some_and(|&after| is_visible(after));
            is_between && joined.is_some_and(|&c| takes_joiner(c))
        }
        _ => false,
    }
}

/// Whether a joiner behind this code point changes what is seen: behind emoji and their modifiers, and in the blocks of
/// scripts whose letters join or stack (Arabic to Myanmar, Philippine to Vedic, Syloti to Meetei, and those beyond the
/// basic plane).
fn takes_joiner(c: char) -> bool {
    matches!(c.general_category(), GeneralCategory::OtherSymbol | GeneralCategory::ModifierSymbol)
        || matches!(c, '\u{600}'..='\u{109F}' | '\u{1700}'..='\u{1CFF}' | '\u{A800}'..='\u{ABFF}' | '\u{10A00}'..='\u{11FFF}' | '\u{1E900}'..='\u{1E95F}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_keeps_joiners_only_where_they_join() {
        for good in
            ["👩\u{200D}🚀", "❤\u{FE0F}\u{200D}🔥", "می\u{200C}خواهم", "ക\u{D4D}\u{200D}ഷ", "葛\u{E0100}城", "O. 'X'"]
        {
            assert_eq!(name(good, 64).as_deref(), Ok(good));
        }
        for bad in [
            "a\u{200D}b",
            "李\u{200C}明",
            "👩\u{200D}",
            "👩\u{200D} x",
            "م\u{200C}\u{200C}ن",
            "\u{FE0F}a",
            "x\u{E0061}",
        ] {
            assert_eq!(name(bad, 64).unwrap_err().rule, "invisible", "{bad:?}");
        }
    }

    #[test]
    fn an_empty_name_is_left_to_the_caller() {
        assert_eq!(name(" \u{3000} ", 64).as_deref(), Ok(""));
    }

    proptest! {
        #[test]
        fn a_name_that_was_taken_is_taken_as_it_is(text in any::<String>()) {
            if let Ok(taken) = name(&text, 64) {
                prop_assert_eq!(name(&taken, 64), Ok(taken));
            }
        }
    }
}
