//! A line about a file as `ls -l` has it, which clients show to people.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// What is older, or newer, has its year in the place of its time of day.
const HALF_A_YEAR: i64 = 182 * 86400;

/// The line for a file called `name`. `now` is in seconds since 1970; times are UTC.
pub(super) fn long_name(name: &[u8], metadata: &Metadata, now: i64) -> Vec<u8> {
    let (links, size) = (metadata.nlink(), metadata.len());
    let (user, group) = (metadata.uid(), metadata.gid());
    let (mode, time) = (mode(metadata.mode()), time(metadata.mtime(), now));
    let mut line = format!("{mode} {links:>4} {user:<8} {group:<8} {size:>8} {time} ").into_bytes();
    line.extend(name);
    line
}

fn mode(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o060_000 => 'b',
        0o020_000 => 'c',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, mark) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => mark,
            (true, false) => mark.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn time(seconds: i64, now: i64) -> String {
    let (days, of_day) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Years from March on, so that the day which only some have is their last; 146097 days are 400
    // of them.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = (month + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    let name = MONTHS[month as usize];
    if (now - seconds).abs() < HALF_A_YEAR {
        format!("{name} {day:>2} {:02}:{:02}", of_day / 3600, of_day / 60 % 60)
    } else {
        format!("{name} {day:>2}  {year:>4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_formats_modes_and_times_as_ls() {
        assert_eq!(mode(0o100_644), "-rw-r--r--");
        assert_eq!(mode(0o041_777), "drwxrwxrwt");
        assert_eq!(mode(0o104_655), "-rwSr-xr-x");
        assert_eq!(mode(0o120_777), "lrwxrwxrwx");
        assert_eq!(time(0, 86400), "Jan  1 00:00");
        assert_eq!(time(951_782_400, 2_000_000_000), "Feb 29  2000");
        assert_eq!(time(1_735_689_599, 1_735_689_600), "Dec 31 23:59");
        assert_eq!(time(-1, 2_000_000_000), "Dec 31  1969");
    }
}
