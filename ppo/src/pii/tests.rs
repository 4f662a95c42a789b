use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// What is found, and what stands there afterwards.
const FOUND: [(&str, &str); 47] = [
    ("write to joe.bloggs+news@mail.example.co.uk, please", "write to [EMAIL], please"),
    ("<joe@example.org>.", "<[EMAIL]>."),
    ("mailto:joe@example.org", "mailto:[EMAIL]"),
    ("'joe@example.org'", "'[EMAIL]'"),
    ("j\u{f6}rg@m\u{fc}ller.de", "[EMAIL]"),
    ("joe@xn--mller-kva.xn--p1ai!", "[EMAIL]!"),
    ("a@b.org.1 and c_d@e-f.museum", "[EMAIL].1 and [EMAIL]"),
    ("a@b.cd@e.fg", "[EMAIL]@e.fg"),
    ("call +49 30 901820 now", "call [PHONE] now"),
    ("+49 (0)30 90-18-20", "[PHONE]"),
    ("+14155550132", "[PHONE]"),
    ("+1.415.555.0132.", "[PHONE]."),
    ("+1 (415) 555-0132", "[PHONE]"),
    ("tel:+44-20-7946-0958;ext=1", "tel:[PHONE];ext=1"),
    ("(415) 555-0132", "[PHONE]"),
    ("(415)555.0132", "[PHONE]"),
    ("415-555-0132 or 415.555.0132", "[PHONE] or [PHONE]"),
    ("1-800-555-0199?", "[PHONE]?"),
    ("(030) 901820 oder (030) 901-820", "[PHONE] oder [PHONE]"),
    ("01 42 68 53 00, 01.42.68.53.00", "[PHONE], [PHONE]"),
    ("4111111111111111", "[CARD]"),
    ("4111 1111 1111 1111 exp 12/29", "[CARD] exp 12/29"),
    ("4111-1111-1111-1111 123", "[CARD] 123"),
    ("3782 822463 10005 (Amex)", "[CARD] (Amex)"),
    ("card:5555555555554444,", "card:[CARD],"),
    ("30569309025904", "[CARD]"),
    ("DE89370400440532013000", "[IBAN]"),
    ("DE89 3704 0044 0532 0130 00 is mine", "[IBAN] is mine"),
    ("be68 5390 0754 7034 from", "[IBAN] from"),
    ("GB29 NWBK 6016 1331 9268 19.", "[IBAN]."),
    ("NO9386011117947", "[IBAN]"),
    ("MT84MALT011000012345MTLCAST001S", "[IBAN]"),
    ("from 192.0.2.17.", "from [IP]."),
    ("http://192.0.2.17:8080/x", "http://[IP]:8080/x"),
    ("a,10.0.0.1,b", "a,[IP],b"),
    ("[2001:db8::7]:443", "[[IP]]:443"),
    ("2001:db8:0:0:0:0:2:1", "[IP]"),
    ("fe80::1%eth0", "[IP]%eth0"),
    ("::ffff:192.0.2.17", "[IP]"),
    ("at 2001:db8::7: nothing", "at [IP]: nothing"),
    ("123-45-6789", "[SSN]"),
    ("my SSN is 078 05 1120.", "my SSN is [SSN]."),
    ("a@b.org 123-45-6789 +14155550132", "[EMAIL] [SSN] [PHONE]"),
    ("\u{4f60}\u{597d} 192.0.2.17 \u{4f60}\u{597d}", "\u{4f60}\u{597d} [IP] \u{4f60}\u{597d}"),
    ("2-415-555-0132 415-555-0133", "2-415-555-0132 [PHONE]"),
    ("x\n415-555-0132\ny", "x\n[PHONE]\ny"),
    ("DE89370400440532013000, 4111111111111111", "[IBAN], [CARD]"),
];

/// What looks a little like it, and stays.
const LEFT: [&str; 46] = [
    "",
    "@joe and joe@ and a@b and @",
    "pkg@1.2.3 and user@host",
    "a@.org a@b. a@b.c",
    "meet @ 8.30",
    "4111111111111112",
    "4111 1111 1111 1112",
    "1700000000000 ms since 1970",
    "9780306406157",
    "x4111111111111111 and 4111111111111111x",
    "41111111111111111111111",
    "DE88370400440532013000",
    "DE89 37040 0440532013000",
    "deed1234",
    "AB12 abcd efgh ijkl",
    "1.2.3",
    "256.1.1.1",
    "1.2.3.4.5",
    "01.02.03.04",
    "v1.2.3.4x",
    "127.0.0.1 and 0.0.0.0 and ::1 and ::",
    "12:30:45",
    "std::vector<a::b>",
    "dead::beef",
    "aa:bb:cc:dd:ee:ff",
    "12345::xyz",
    "123-45-678",
    "000-12-3456 666-12-3456 912-12-3456 123-00-4567 123-45-0000",
    "123-45-67890",
    "1123-45-6789",
    "123-45 6789",
    "555-0132",
    "115-555-0132",
    "415-155-0132",
    "415-555.0132",
    "415-555-01322",
    "2024-01-02T03:04:05",
    "+3.14159265358",
    "+20 - 30 + 40",
    "1+23456789",
    "+100 000 000 people",
    "+1234567",
    "(0.5 to 1.25)",
    "ISBN 978-3-16-148410-0",
    "550e8400-e29b-41d4-a716-446655440000",
    "one [EMAIL] and [PHONE], [CARD] [IBAN] [IP] [SSN]",
];

#[test]
fn formats_are_found_where_they_are() {
    for (text, expected) in FOUND {
        assert_eq!(redacted(text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn what_only_looks_like_it_stays() {
    for text in LEFT {
        assert_eq!(redacted(text), None, "{text}");
    }
}

/// Goal: what was redacted holds nothing more, whatever stands side by side. Method: pieces of all kinds glued together in every
/// which way, redacted twice; the seed is fixed.
#[test]
fn redacting_twice_changes_nothing() {
    let glue = [" ", "", "-", ".", "+", "@", "1", "a", "(", ")", "\n", ":", "0", "\u{e9}"];
    let pieces: Vec<&str> = FOUND.iter().map(|(text, _)| *text).chain(LEFT).chain(glue).collect();
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut n_changed = 0;
    for _ in 0..4000 {
        let n = random.random_range(1..6);
        let mut text = String::new();
        for _ in 0..n {
            text.push_str(pieces[random.random_range(0..pieces.len())]);
            text.push_str(glue[random.random_range(0..glue.len())]);
        }
        if let Some(once) = redacted(&text) {
            n_changed += 1;
            assert_eq!(redacted(&once), None, "{text:?} became {once:?}");
        }
        let cut =
            (0..=text.len()).filter(|at| text.is_char_boundary(*at)).nth(random.random_range(0..=text.chars().count()));
        let (prompt, response) = text.split_at(cut.unwrap());
        if let Some(once) = redacted_exchange(prompt, response) {
            assert_eq!(redacted_exchange(&once.prompt, &once.response), None, "{prompt:?} {response:?} {once:?}");
        }
    }
    assert!(n_changed > 2000, "{n_changed}");
}

#[test]
fn what_stands_across_the_boundary_is_found() {
    let both = redacted_exchange("my address is joe@exam", "ple.org, and yours?").unwrap();
    assert_eq!((both.prompt.as_str(), both.response.as_str()), ("my address is [EMAIL]", ", and yours?"));
    let both = redacted_exchange("call +49 30 90", "1820").unwrap();
    assert_eq!((both.prompt.as_str(), both.response.as_str()), ("call [PHONE]", ""));
    assert_eq!(redacted_exchange("the sky", " is blue"), None);
    let one = redacted_exchange("ask 1", "4111111111111111").unwrap();
    assert_eq!((one.prompt.as_str(), one.response.as_str()), ("ask 1", "[CARD]"), "each part also stands for itself");
}
