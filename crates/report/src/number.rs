//! Numbers as people read them.

/// A count or size with at most four significant characters: `950`, `12.3K`, `4.1M`, `2B`.
pub fn compact(value: f64) -> String {
    let magnitude = value.abs();
    let (divisor, suffix) = match magnitude {
        m if m >= 0.9995e12 => (1e12, "T"),
        m if m >= 0.9995e9 => (1e9, "B"),
        m if m >= 0.9995e6 => (1e6, "M"),
        m if m >= 9_999.5 => (1e3, "K"),
        _ => return significant(value),
    };
    format!("{}{suffix}", significant(value / divisor))
}

/// Three significant digits without trailing zeros, never an exponent for common sizes: `0.00123`, `1.5`, `312`.
pub fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".into() } else { "-".into() };
    }
    let exponent = value.abs().log10().floor() as i32;
    if exponent < -4 {
        return format!("{value:.1e}");
    }
    let decimals = (2 - exponent).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// Whole number with thousands separated: `1,234,567`.
pub fn whole(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 && digits != "0" { format!("-{text}") } else { text }
}

/// Bytes in decimal units: `512 B`, `4.6 MB`.
pub fn bytes(value: f64) -> String {
    match value.abs() {
        v if v >= 0.9995e12 => format!("{} TB", significant(value / 1e12)),
        v if v >= 0.9995e9 => format!("{} GB", significant(value / 1e9)),
        v if v >= 0.9995e6 => format!("{} MB", significant(value / 1e6)),
        v if v >= 999.5 => format!("{} kB", significant(value / 1e3)),
        _ => format!("{value:.0} B"),
    }
}

/// Wall time: `0.4 s`, `42 s`, `3 min 12 s`, `2 h 05 min`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".into();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min {:02} s", s / 60, s % 60),
        s => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

/// A share as a percentage: `41.2%`.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1}%", share * 100.0) } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [950.0, 1234.0, 12_345.0, 999_999.0, 4.1e6, 2e9].map(compact),
            ["950", "1234", "12.3K", "1M", "4.1M", "2B"]
        );
        assert_eq!(
            [0.0, 0.0012345, 1.5, 312.4, 3e-5, -0.25].map(significant),
            ["0", "0.00123", "1.5", "312", "3.0e-5", "-0.25"]
        );
        assert_eq!([0.0, 999.0, 1_234_567.0, -1000.0].map(whole), ["0", "999", "1,234,567", "-1,000"]);
        assert_eq!([512.0, 4_600_000.0, 999_900.0].map(bytes), ["512 B", "4.6 MB", "1 MB"]);
        assert_eq!([0.42, 42.0, 192.4, 7500.0].map(duration), ["0.4 s", "42 s", "3 min 12 s", "2 h 05 min"]);
        assert_eq!(duration(f64::NAN), "-");
        assert_eq!(percent(0.4123), "41.2%");
    }
}
