//! Days of the calendar, UTC: what commercial papers are dated with.
//!
//! Day numbers follow Howard Hinnant, "chrono-compatible low-level date algorithms"
//! (days_from_civil). Banking days are Monday to Friday; holidays differ by place and are not known
//! to the chain.

use alloc::string::String;

use crate::json;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A day, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub u64);

impl Date {
    /// The day of a time in milliseconds since 1970.
    pub fn from_ms(ms: u64) -> Self {
        Self(ms / DAY_MS)
    }

    /// Reads YYYY-MM-DD from 1970-01-01 to 9999-12-31.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
            return None;
        }
        let digits = |from: usize, to: usize| {
            bytes[from..to].iter().try_fold(0_u64, |value, byte| {
                byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0'))
            })
        };
        let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
        if year < 1970 || !(1..=12).contains(&month) || day == 0 {
            return None;
        }
        let date = Self::from_civil(year, month, day);
        // A day that does not exist, as 30 February, comes back as another one.
        (date.civil() == (year, month, day)).then_some(date)
    }

    /// YYYY-MM-DD.
    pub fn text(self) -> String {
        let (year, month, day) = self.civil();
        let mut text = String::new();
        json::push_number(&mut text, year);
        for part in [month, day] {
            text.push('-');
            if part < 10 {
                text.push('0');
            }
            json::push_number(&mut text, part);
        }
        text
    }

    /// The day `days` later.
    #[must_use]
    pub fn plus(self, days: u64) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// Days from `earlier` to this one; 0 where it is not earlier.
    pub fn days_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// True from Monday to Friday.
    pub fn is_banking_day(self) -> bool {
        // 1970-01-01 was a Thursday.
        !matches!((self.0 + 3) % 7, 5 | 6)
    }

    /// This day, or the first banking day behind it.
    #[must_use]
    pub fn banking_day_from(self) -> Self {
        let mut day = self;
        while !day.is_banking_day() {
            day = day.plus(1);
        }
        day
    }

    /// The `count`-th banking day after this day.
    #[must_use]
    pub fn plus_banking_days(self, count: u64) -> Self {
        let mut day = self;
        for _ in 0..count {
            day = day.plus(1).banking_day_from();
        }
        day
    }

    fn from_civil(year: u64, month: u64, day: u64) -> Self {
        // Years begin in March, so that the leap day is the last.
        let year = if month <= 2 { year - 1 } else { year };
        let (era, of_era) = (year / 400, year % 400);
        let month = (month + 9) % 12;
        let of_year = (153 * month + 2) / 5 + day - 1;
        let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        Self(era * 146_097 + of_era - 719_468)
    }

    fn civil(self) -> (u64, u64, u64) {
        let days = self.0 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        (era * 400 + year + next, month, day)
    }
}
