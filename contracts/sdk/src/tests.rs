use super::prelude::*;
use crate::json;

/// Aim: records come back as they were, whatever their text holds.
#[test]
fn records_survive_their_text() {
    let mut record = Record::new();
    record.set_text("a", "quote \" back \\ line\n bell \u{7} ü 漢").set_number("n", u64::MAX);
    record.set_flag("yes", true).set_flag("no", false).set_text("", "");
    let text = record.json().finish();
    assert_eq!(Record::parse(text.as_bytes()), Some(record.clone()));
    assert_eq!(Record::parse(b"{}"), Some(Record::new()));
    for end in 0..text.len() {
        assert_eq!(Record::parse(&text.as_bytes()[..end]), None);
    }
    for bad in ["", "{", "[]", "{}x", "{\"a\":1,}", "{\"a\":-1}", "{\"a\":1.5}", "{\"a\":\"\\x\"}"]
    {
        assert_eq!(Record::parse(bad.as_bytes()), None, "{bad}");
    }
}

/// Aim: numbers are read in their one form only.
#[test]
fn numbers_have_one_form() {
    for (text, value) in [("0", 0), ("10", 10), ("18446744073709551615", u64::MAX)] {
        assert_eq!(json::number(text.as_bytes()), Some(value));
        let mut out = String::new();
        json::push_number(&mut out, value);
        assert_eq!(out, text);
    }
    for bad in ["", "00", "01", "-1", "+1", "1 ", "1e3", "18446744073709551616"] {
        assert_eq!(json::number(bad.as_bytes()), None, "{bad}");
    }
}

/// Aim: dates are those of the calendar, leap years and weekends included.
#[test]
fn dates_follow_the_calendar() {
    for (text, day) in [("1970-01-01", 0), ("2000-03-01", 11_017), ("2024-02-29", 19_782)] {
        assert_eq!(Date::parse(text), Some(Date(day)));
        assert_eq!(Date(day).text(), text);
    }
    for bad in ["2023-02-29", "1900-01-01", "2024-13-01", "2024-00-10", "2024-1-1", "24-01-01"] {
        assert_eq!(Date::parse(bad), None, "{bad}");
    }
    for day in 0..80_000 {
        assert_eq!(Date::parse(&Date(day).text()), Some(Date(day)));
    }
    let friday = Date::parse("2024-05-03").unwrap();
    assert!(friday.is_banking_day() && !friday.plus(1).is_banking_day());
    assert_eq!(friday.plus_banking_days(1).text(), "2024-05-06");
    assert_eq!(friday.plus_banking_days(5).text(), "2024-05-10");
    assert_eq!(friday.plus(1).banking_day_from().text(), "2024-05-06");
}
