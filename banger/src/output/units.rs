//! Durations, sizes and counts, as people write and read them.

use std::time::Duration;

/// `parse` for an option, whose error is a sentence: the functions here say what a text may be.
pub fn option<T: 'static>(
    parse: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| parse(text).map_err(|may_be| format!("it may be {may_be}"))
}

/// Parses `90`, `90s`, `5m` or `1h`.
///
/// # Errors
/// Of anything else: what it may be.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, factor) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1.0),
        Some(b'm') => (&text[..text.len() - 1], 60.0),
        Some(b'h') => (&text[..text.len() - 1], 3600.0),
        _ => (text, 1.0),
    };
    let seconds = number.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds * factor).ok());
    duration.ok_or_else(|| "a time above 0, with `s`, `m` or `h`, such as `90s`".to_owned())
}

/// Parses the size of a VM's memory, such as `512M`, `4G` or `0.5GiB`, into MiB; a number without a
/// unit is in MiB.
///
/// # Errors
/// Of anything else: what it may be.
pub fn mebibytes(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Some(size @ 128..) => Ok(size),
        Some(_) => Err("at least `128M`".to_owned()),
        None => Err("a size with `M` or `G`, such as `4G`".to_owned()),
    }
}

/// Reads the size of a VM's disk, such as `8G`, in MiB.
///
/// # Errors
/// Of anything else: what it may be.
pub fn disk(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        // ext4 with blocks of 4 KiB and 32-bit numbers for them ends at 16 TiB.
        Some(size @ 1024..=0xff_ffff) => Ok(size),
        Some(..1024) => Err("at least `1G`".to_owned()),
        Some(_) => Err("less than `16T`".to_owned()),
        None => Err("a size with `M`, `G` or `T`, such as `64G`".to_owned()),
    }
}

/// Parses how much is read, written or sent in a second, such as `50M`, into MiB.
///
/// # Errors
/// Of anything else: what it may be.
pub fn rate(text: &str) -> Result<u64, String> {
    // No device of today has more, and its bytes are few enough to be counted in 64 bits.
    const MOST: u64 = 1 << 20;
    let rate = parse_size(text).filter(|rate| (1..=MOST).contains(rate));
    rate.ok_or_else(|| "a size per second from `1M` to `1T`, such as `50M`".to_owned())
}

/// Parses how much is transferred at most, such as `4G`, into MiB.
///
/// # Errors
/// Of anything else: what it may be.
pub fn transfer(text: &str) -> Result<u64, String> {
    // Its bytes are few enough to be counted in 64 bits.
    let size = parse_size(text).filter(|size| (1..=0xff_ffff).contains(size));
    size.ok_or_else(|| "a size from `1M` to less than `16T`, such as `4G`".to_owned())
}

/// In MiB, rounded down. As docker(1) has it, units are powers of 1024, and `G`, `GB` and `GiB` the
/// same.
fn parse_size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.to_ascii_uppercase().as_str() {
        "" | "M" | "MB" | "MIB" => 1,
        "G" | "GB" | "GIB" => 1 << 10,
        "T" | "TB" | "TIB" => 1 << 20,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !(is_number(whole) && is_number(fraction)) {
        return None;
    }
    // A fraction of the unit is less than one, so no digit of the whole is lost.
    let part = (format!("0.{fraction}").parse::<f64>().ok()? * factor as f64) as u64;
    whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(part)
}

/// A size in MiB as it is written: `512M`, `64G`.
pub fn size(mib: u64) -> String {
    match mib {
        mib if mib > 0 && mib.is_multiple_of(1 << 20) => format!("{}T", mib >> 20),
        mib if mib > 0 && mib.is_multiple_of(1 << 10) => format!("{}G", mib >> 10),
        mib => format!("{mib}M"),
    }
}

/// A time as it is written: `90s`, `30m`, `2h`; `0` without a unit.
pub fn time(time: Duration) -> String {
    match time.as_secs() {
        _ if time.is_zero() => "0".to_owned(),
        seconds if time.subsec_nanos() > 0 || !seconds.is_multiple_of(60) => format!("{}s", time.as_secs_f64()),
        seconds if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        seconds => format!("{}m", seconds / 60),
    }
}

/// `12 ms`, `2.41 s`, `3 min 5 s`.
pub fn elapsed(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match duration.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.2} s", duration.as_secs_f64()),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// `812 B`, `34.5 kB`, `1.2 GB`: powers of 1000.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// `just now`, `5 min ago`, `3 h ago`, `12 days ago`.
pub fn ago(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => "just now".to_owned(),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// `1 file`, `2 files`.
pub fn count(number: u64, one: &str, more: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {more}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_parse() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "s", "-1", "0", "1d", "inf", "nan", "1e99"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        let said = |error: Option<String>| error.unwrap();
        assert_eq!(said(option(mebibytes)("1M").err()), "it may be at least `128M`");
        assert_eq!(said(option(mebibytes)("x").err()), "it may be a size with `M` or `G`, such as `4G`");
        assert_eq!(said(option(duration)("0s").err()), "it may be a time above 0, with `s`, `m` or `h`, such as `90s`");
        assert_eq!(mebibytes("4G"), Ok(4096));
        assert_eq!(mebibytes("512"), Ok(512));
        for (text, mib) in
            [("8GB", 8192), ("8GiB", 8192), ("0.5G", 512), ("512mb", 512), ("1.5gib", 1536), ("1tib", 1 << 20)]
        {
            assert_eq!(mebibytes(text), Ok(mib), "{text}");
        }
        let wrong = [
            "",
            "G",
            "1M",
            "-4G",
            "99999999999999999999G",
            "18014398509481984G",
            "4 G",
            "4iB",
            "4K",
            "4GG",
            ".5G",
            "1.G",
        ];
        for wrong in wrong.into_iter().chain(["+4G", "1e3M", "4BG", "1.2.3G", "infG"]) {
            assert!(mebibytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_times_round_trip() {
        for text in ["512M", "4G", "2T", "1025M"] {
            assert_eq!(size(parse_size(text).unwrap()), text);
        }
        for text in ["90s", "30m", "2h", "1.5s"] {
            assert_eq!(time(duration(text).unwrap()), text);
        }
        assert_eq!(disk("64G"), Ok(65536));
        for wrong in ["", "G", "1023M", "16T", "1P", "-1G", "18446744073709551615T"] {
            assert!(disk(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_parse() {
        for (text, mib) in [("64M", 64), ("64", 64), ("1.5GiB", 1536), ("1M", 1), ("1T", 1 << 20)] {
            assert_eq!(rate(text), Ok(mib), "{text}");
        }
        for wrong in ["", "0", "0M", "0.9M", "-5M", "1048577M", "1.1T", "17592186044416T", "64M/s", "64K", "fast"] {
            assert!(rate(wrong).unwrap_err().contains("from `1M` to `1T`"), "{wrong}");
        }
    }

    #[test]
    fn durations_sizes_and_counts_are_formatted() {
        assert_eq!(elapsed(Duration::from_millis(12)), "12 ms");
        assert_eq!(elapsed(Duration::from_millis(2412)), "2.41 s");
        assert_eq!(elapsed(Duration::from_secs(185)), "3 min 5 s");
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(34_512), "34.5 kB");
        assert_eq!(bytes(999_999_999), "1.0 GB");
        assert_eq!(count(1, "file", "files"), "1 file");
        let times = [59, 60, 3599, 3600, 172_799, 172_800].map(|seconds| ago(Duration::from_secs(seconds)));
        assert_eq!(times, ["just now", "1 min ago", "59 min ago", "1 h ago", "47 h ago", "2 days ago"]);
    }
}
