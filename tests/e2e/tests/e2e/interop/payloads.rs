//! JSON texts of all sorts, as keys.

use std::collections::BTreeSet;

use microbatch::Random;
use microbatch_testkit::clock::SeededRandom;

/// Numbers: an integer, a float and an exponent are three spellings, of one value or of two.
#[rustfmt::skip]
const NUMBERS: &[&str] = &[
    "0", "-0", "-0.0", "0.0", "0e0", "-0E-5", "1", "1.0", "100", "1e2", "1E+2", "100.000", "-1", "-7.25", "0.1",
    "1.10", "3.141592653589793", "0.30000000000000004", "123456789.1234567", "1763545288891275.2",
    "9007199254740991", "9007199254740992.0", "9007199254740993", "18446744073709551615", "18446744073709551616",
    "9223372036854775807", "-9223372036854775808", "-9223372036854775809", "123456789012345678901234567890",
    "-99999999999999999999999999999999999999999999", "1e15", "1e16", "1e17", "123456789012345680", "1.5e16", "1e21",
    "1e22", "1e23", "1e100", "0.001", "0.0001", "0.00001", "1e-4", "1e-5", "1.5e-7", "123.456e-10",
    "1.7976931348623157e308", "2.2250738585072014e-308", "2.225073858507201e-308", "5e-324",
];

/// Strings: escapes, control characters, all planes, what looks alike.
#[rustfmt::skip]
const STRINGS: &[&str] = &[
    r#""o-1""#, r#"" ""#, r#""0""#, r#""null""#, r#""a/b""#, r#""a\/b""#, r#""\u0061\/b""#, r#""\"\\""#,
    r#""\b\f\n\r\t""#, r#""\u0000""#, r#""\u001f\u007f\u0080""#, "\"\u{7f}\"", "\"\u{80}\u{9f}\u{a0}\"",
    "\"Stra\u{df}e\"", "\"caf\u{e9}\"", "\"cafe\u{301}\"", "\"\u{65e5}\u{672c}\u{8a9e}\"", "\"\u{2028}\u{2029}\"",
    "\"\u{feff}x\"", "\"\u{fffd}\u{ffff}\"", "\"\u{1f600}\"", r#""\ud83d\ude00""#, r#""\uD83D\uDE00""#,
    "\"\u{10000}\u{10ffff}\"", "\"\u{1f469}\u{200d}\u{1f52c}\"", "\"\u{202e}abc\"", r#""'<>&""#,
];

/// Literals, lists and objects.
#[rustfmt::skip]
const OTHERS: &[&str] = &[
    "true", "false", "[0]", "[false]", r#"[""]"#, "[[]]", "[{}]", "[null,1]", "[ 1 , 2 ]", "[1,[2,[3,[4]]]]",
    "[1,1.0,1e0]", "[true,false,null]", r#"{"a":1}"#, r#"{"":0}"#, r#"{"b":1,"a":2}"#, r#"{"a":{"b":{"c":null}}}"#,
    r#"{"a":null,"b":0}"#, r#"{"a":[],"b":{},"c":""}"#, "{ \"x\" :\t1 ,\r\n\"y\": [ ] }", r#"{"10":1,"9":2,"1":3}"#,
    r#"{"B":1,"a":2,"A":3,"b":4,"_":5}"#,
    // Names in order of code points: by UTF-16 units, the astral one would stand before the second.
    "{\"\u{1f600}\":1,\"\u{ffff}\":2,\"\u{e9}\":3,\"z\":4}", r#"{"\u00e9":1,"e":2,"\ud83d\ude00":3}"#,
];

/// Values that both sides make the same key of.
pub(crate) fn equal() -> Vec<String> {
    let nested = |levels: usize| format!("{}7{}", "[".repeat(levels), "]".repeat(levels));
    let mut all: Vec<String> = [NUMBERS, STRINGS, OTHERS].concat().into_iter().map(str::to_owned).collect();
    all.extend([nested(100), "9".repeat(4_300), format!("\"{}\"", "\u{e9}".repeat(50_000))]);
    all
}

/// Values that microbatch refuses, with the code it gives. Those without a key Powertools runs without idempotency.
pub(crate) fn refused() -> Vec<(String, &'static str)> {
    let mut all: Vec<(String, &'static str)> = [
        ("null", "missing_key"),
        ("[null, null]", "missing_key"),
        (r#"{"a":null}"#, "missing_key"),
        (r#""""#, "missing_key"),
        ("[]", "missing_key"),
        ("{}", "missing_key"),
        // Python keeps the last.
        (r#"{"a":1,"a":2}"#, "repeated_name"),
        (r#"[{"a":1,"\u0061":1}]"#, "repeated_name"),
        // Python rounds, to infinity or to zero where it must.
        ("0.1000000000000000055511151231257827", "inexact_number"),
        ("123456789.123456789", "inexact_number"),
        ("4.9406564584124654e-324", "inexact_number"),
        ("9007199254740993.0", "inexact_number"),
        ("123456789012345678901.5", "inexact_number"),
        ("1e400", "inexact_number"),
        ("-1e400", "inexact_number"),
        ("1e-400", "inexact_number"),
        // No JSON, though Python takes it.
        (r#""\ud800""#, "not_json"),
        (r#""\ude00\ud83d""#, "not_json"),
        ("NaN", "undecodable"),
        ("Infinity", "undecodable"),
        ("-Infinity", "undecodable"),
    ]
    .map(|(value, code)| (value.to_owned(), code))
    .to_vec();
    // Python reads no integer of so many digits.
    all.push(("9".repeat(4_301), "inexact_number"));
    all.push((format!("{}7{}", "[".repeat(200), "]".repeat(200)), "too_deep"));
    all
}

/// Values that look random, and are the same in every run. None of them is missing, and no two are equal.
pub(crate) fn random(count: usize) -> Vec<String> {
    let mut generator = Generator(SeededRandom::new(7));
    (0..count).map(|n| format!("[\"r-{n}\",{}]", generator.value(4))).collect()
}

struct Generator(SeededRandom);

impl Generator {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        let bound = u64::try_from(all.len()).expect("few");
        all[usize::try_from(self.below(bound)).expect("few")]
    }

    fn space(&mut self) -> &'static str {
        self.pick(&["", "", "", " ", "\n", "\t ", "\r\n"])
    }

    fn value(&mut self, depth: u32) -> String {
        match self.below(if depth == 0 { 7 } else { 10 }) {
            0 => self.pick(&["null", "true", "false"]).to_owned(),
            1 => self.integer(),
            2..=4 => self.float(),
            5 | 6 => self.string(),
            7 => {
                let elements: Vec<String> = (0..self.below(4)).map(|_| self.value(depth - 1)).collect();
                format!("[{}{}]", self.space(), elements.join(&format!("{},", self.space())))
            }
            _ => self.object(depth),
        }
    }

    fn object(&mut self, depth: u32) -> String {
        let mut names = BTreeSet::new();
        let mut members = Vec::new();
        for _ in 0..self.below(5) {
            let name = self.string();
            // Two spellings of one name are one name.
            if names.insert(serde_json::from_str::<String>(&name).expect("a string")) {
                members.push(format!("{name}{}:{}{}", self.space(), self.space(), self.value(depth - 1)));
            }
        }
        format!("{{{}{}}}", self.space(), members.join(","))
    }

    fn integer(&mut self) -> String {
        let digits = 1 + self.below(40);
        let mut text = String::from(self.pick(&["", "-"]));
        text.push(char::from(b'1' + u8::try_from(self.below(9)).expect("a digit")));
        for _ in 1..digits {
            text.push(char::from(b'0' + u8::try_from(self.below(10)).expect("a digit")));
        }
        text
    }

    /// A float whose text a double holds exactly: the shortest form of any double, or one of up to 15 digits.
    fn float(&mut self) -> String {
        let bits = u64::try_from(self.0.next_u128() >> 64).expect("64 bits");
        let double = match self.below(4) {
            0 => f64::from_bits(bits),
            // Quarters of 2^50: there the shortest form is often a choice between two that are equally near.
            1 => f64::from_bits((1023 + 50) << 52 | bits >> 12),
            _ => f64::NAN,
        };
        if double.is_finite() {
            let shortest = serde_json::Value::from(double).to_string();
            return if self.below(2) == 0 { shortest } else { shortest.to_uppercase() };
        }
        let sign = self.pick(&["", "-"]);
        let (whole, fraction) = (self.below(10_000_000), self.below(10_000_000));
        let exponent = match self.below(3) {
            0 => String::new(),
            1 => format!("e{}", self.below(280)),
            _ => format!("E-{:02}", self.below(280)),
        };
        format!("{sign}{whole}.{fraction}{}{exponent}", self.pick(&["", "0"]))
    }

    fn string(&mut self) -> String {
        let mut text = String::from("\"");
        for _ in 0..self.below(8) {
            let range = match self.below(8) {
                0 => 0x00..0x20,
                1 => 0x7f..0x100,
                2 => 0x100..0x3000,
                3 => 0xe000..0x1_0000,
                4 => 0x1_0000..0x11_0000,
                _ => 0x20..0x7f,
            };
            let code = range.start + self.below(range.end - range.start);
            let character = u32::try_from(code).ok().and_then(char::from_u32).expect("no surrogate");
            self.push(&mut text, character);
        }
        text.push('"');
        text
    }

    /// A character, escaped where it must be and now and then where it need not be.
    fn push(&mut self, text: &mut String, character: char) {
        let short = match character {
            '"' | '\\' | '/' => Some(character),
            '\n' => Some('n'),
            '\t' => Some('t'),
            '\u{8}' => Some('b'),
            _ => None,
        };
        match short {
            Some(short) if self.below(2) == 0 => text.extend(['\\', short]),
            _ if character < ' ' || character == '"' || character == '\\' || self.below(4) == 0 => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    text.push_str(&if self.below(2) == 0 {
                        format!("\\u{unit:04x}")
                    } else {
                        format!("\\u{unit:04X}")
                    });
                }
            }
            _ => text.push(character),
        }
    }
}
