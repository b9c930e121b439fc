//! From a stored response to HTML as text: HTTP headers, transfer and content encodings, character encoding.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use fastwarc::stream_io::brotli::BrotliReader;
use fastwarc::stream_io::chunked::ChunkedReader;
use fastwarc::stream_io::gzip::{GzipReader, GzipReaderOptions};
use fastwarc::stream_io::zstd::ZstdReader;
use std::borrow::Cow;
use std::io::{Cursor, Read};

/// Bytes at the start of a page in which `<meta charset>` is looked for; the standard says 1024, pages say later.
const META_WINDOW: usize = 4096;

/// HTTP headers of a response; the body follows at `body`.
pub struct Http<'a> {
    /// Status code, 0 if the status line has none.
    pub status: u16,
    headers: Vec<(&'a str, &'a str)>,
    /// The body as it was sent.
    pub body: &'a [u8],
}

/// Splits a response. `None` if it is no HTTP at all.
pub fn parse(block: &[u8]) -> Option<Http<'_>> {
    if !block.starts_with(b"HTTP/") {
        return None;
    }
    let (head, body) = match memchr::memmem::find(block, b"\r\n\r\n") {
        Some(end) => (&block[..end], &block[end + 4..]),
        None => match memchr::memmem::find(block, b"\n\n") {
            Some(end) => (&block[..end], &block[end + 2..]),
            None => (block, &block[block.len()..]),
        },
    };
    let mut lines =
        head.split(|b| *b == b'\n').map(|line| std::str::from_utf8(line.trim_ascii()).unwrap_or(""));
    let status = lines.next()?.split_ascii_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let headers =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim(), value.trim()));
    Some(Http { status, headers: headers.collect(), body })
}

impl<'a> Http<'a> {
    /// A page without headers, such as a saved file.
    pub fn bare(body: &'a [u8]) -> Self {
        Self { status: 200, headers: Vec::new(), body }
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// Media type without parameters, lower case; empty if none is given.
    pub fn media_type(&self) -> String {
        let value = self.header("Content-Type").unwrap_or("");
        value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
    }

    fn charset(&self) -> Option<&'a str> {
        let value = self.header("Content-Type")?;
        let at = value.to_ascii_lowercase().find("charset=")?;
        Some(value[at + 8..].split([';', ',']).next()?.trim_matches(['"', '\'', ' ']))
    }

    /// The body without its transfer and content encodings, cut at `limit` bytes (a bomb ends there). Damage within an
    /// encoding leaves what comes before it.
    ///
    /// Many crawlers decode a body and keep the header, so an encoding whose signature is missing is taken as undone.
    ///
    /// # Errors
    /// Damage with less than [`LEAST_BEFORE_DAMAGE`] bytes before it.
    pub fn decoded_body(&self, limit: usize) -> Result<Body<'a>, String> {
        let mut body = Body { bytes: Cow::Borrowed(self.body), missing: None };
        let chunked =
            self.header("Transfer-Encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"));
        if chunked && starts_with_chunk_size(&body.bytes) {
            body.undo(limit, "chunked encoding", |sent, _| ChunkedReader::new(sent))?;
        }
        let encodings = self.header("Content-Encoding").unwrap_or("").to_ascii_lowercase();
        for encoding in encodings.split(',').map(str::trim).rev() {
            let bytes = &body.bytes;
            match encoding {
                "gzip" | "x-gzip" if bytes.starts_with(b"\x1f\x8b") => body.undo_gzip(limit)?,
                "deflate" if bytes.first().is_some_and(|b| b & 0x0F == 8) => {
                    body.undo(limit, "deflate", |sent, capacity| {
                        let options = GzipReaderOptions { window_bits: 15, capacity, ..Default::default() };
                        GzipReader::with_options(sent, options)
                    })?;
                }
                "zstd" if bytes.starts_with(b"\x28\xb5\x2f\xfd") => {
                    body.undo(limit, "zstd", |sent, _| ZstdReader::new(sent))?;
                }
                "br" if !looks_like_text(bytes) => {
                    body.undo(limit, "brotli", |sent, _| BrotliReader::new(sent))?
                }
                _ => {}
            }
        }
        if body.missing.as_ref().is_some_and(|_| body.bytes.len() < LEAST_BEFORE_DAMAGE) {
            return Err(body.missing.unwrap_or_default());
        }
        Ok(body)
    }
}

/// Less than this before damage within an encoding is no page, bytes.
const LEAST_BEFORE_DAMAGE: usize = 1024;

/// Bytes of gzip that are read at once; and where it is damaged.
const READ_AT_ONCE: usize = 64 << 10;
const READ_AT_ONCE_BEFORE_DAMAGE: usize = 64;

/// What came out of encodings.
pub struct Body<'a> {
    /// The bytes of the page.
    pub bytes: Cow<'a, [u8]>,
    /// What is not there of it, if something is known not to be.
    pub missing: Option<String>,
}

impl Body<'_> {
    /// Takes an encoding away: at most `limit` bytes and what comes before damage. `reader` is given what was sent and how
    /// much of it to take at once. Fails if there is nothing before the damage.
    fn undo<R: Read>(
        &mut self,
        limit: usize,
        encoding: &str,
        reader: impl Fn(Cursor<Vec<u8>>, usize) -> R,
    ) -> Result<(), String> {
        // One byte more than is allowed tells whether there are more.
        let read = |at_once| {
            let mut out = Vec::new();
            let mut reader = reader(Cursor::new(self.bytes.to_vec()), at_once).take(limit as u64 + 1);
            let end = reader.read_to_end(&mut out);
            (out, end)
        };
        let (mut out, mut end) = read(READ_AT_ONCE);
        if end.is_err() {
            // A reader gives nothing of the block that holds the damage, so the blocks are made small.
            (out, end) = read(READ_AT_ONCE_BEFORE_DAMAGE);
        }
        let missing = match end {
            Ok(length) => too_long(length, limit),
            Err(error) if out.is_empty() => return Err(format!("its {encoding} cannot be read ({error})")),
            Err(error) => Some(format!("its {encoding} breaks after {} bytes of text ({error})", out.len())),
        };
        out.truncate(limit);
        self.bytes = Cow::Owned(out);
        self.missing = self.missing.take().or(missing);
        Ok(())
    }

    /// As [`undo`](Self::undo) for gzip, whose reader takes an early end for the end.
    fn undo_gzip(&mut self, limit: usize) -> Result<(), String> {
        let end = GzipEnd::of(&self.bytes);
        self.undo(limit, "gzip", GzipReader::with_capacity)?;
        let length = self.bytes.len();
        if self.missing.is_none() && !end.fits(length) {
            self.missing = Some(format!("its gzip ends after {length} bytes of text"));
        }
        Ok(())
    }
}

fn too_long(length: usize, limit: usize) -> Option<String> {
    (length > limit).then(|| format!("longer than {limit} bytes, the rest is left out"))
}

/// A page as it is in a file, gzipped or not, cut at `limit` bytes: damaged gzip gives what comes before the damage.
///
/// # Errors
/// Gzip with nothing before its damage.
pub fn unpack(bytes: &[u8], limit: usize) -> Result<Body<'_>, String> {
    if !bytes.starts_with(b"\x1f\x8b") {
        let missing = too_long(bytes.len(), limit);
        return Ok(Body { bytes: Cow::Borrowed(&bytes[..bytes.len().min(limit)]), missing });
    }
    let mut body = Body { bytes: Cow::Borrowed(bytes), missing: None };
    body.undo_gzip(limit)?;
    Ok(body)
}

/// The number of bytes that gzip says it holds, in its last four. Of several members, which a page hardly has, nothing is
/// known.
struct GzipEnd(Option<u32>);

impl GzipEnd {
    fn of(gzip: &[u8]) -> Self {
        const MEMBER: [u8; 3] = [0x1f, 0x8b, 8];
        let several = gzip.get(1..).is_some_and(|rest| memchr::memmem::find(rest, &MEMBER).is_some());
        let last = gzip.last_chunk().map(|&end| u32::from_le_bytes(end));
        Self(last.filter(|_| !several))
    }

    fn fits(&self, length: usize) -> bool {
        self.0.is_none_or(|said| said == length as u32)
    }
}

fn starts_with_chunk_size(body: &[u8]) -> bool {
    let digits = body.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    (1..=8).contains(&digits) && matches!(body.get(digits), Some(b'\r' | b';'))
}

fn looks_like_text(body: &[u8]) -> bool {
    let start = &body[..body.len().min(512)];
    !start.contains(&0) && start.iter().filter(|b| **b < 0x20 && !b.is_ascii_whitespace()).count() == 0
}

/// Whether bytes announced as a page are one: no signature of another format, few control characters.
pub fn is_binary(body: &[u8]) -> bool {
    const SIGNATURES: [&[u8]; 9] = [
        b"%PDF-",
        b"\x89PNG",
        b"GIF8",
        b"\xff\xd8\xff",
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"Rar!",
        b"\x7fELF",
        b"OggS",
    ];
    if SIGNATURES.iter().any(|s| body.starts_with(s)) {
        return true;
    }
    let start = &body[..body.len().min(4096)];
    let utf16 = Encoding::for_bom(start).is_some()
        || start.iter().skip(1).step_by(2).filter(|b| **b == 0).count() * 3 > start.len();
    let control =
        start.iter().filter(|b| **b < 0x20 && !b.is_ascii_whitespace() && **b != 0x1b && **b != 0x0c).count();
    !utf16 && control * 20 > start.len()
}

/// The text of a page and its encoding. In order: byte order mark; UTF-8 if the bytes are valid as such and not plain
/// ASCII, whatever is announced; the HTTP header; `<meta charset>`; detection from the bytes.
pub fn decode<'a>(body: &'a [u8], http: &Http<'_>) -> (Cow<'a, str>, &'static Encoding) {
    if let Some((encoding, length)) = Encoding::for_bom(body) {
        return (encoding.decode_without_bom_handling(&body[length..]).0, encoding);
    }
    if let Ok(text) = std::str::from_utf8(body)
        && !(text.is_ascii() && body.contains(&0x1b))
    {
        return (Cow::Borrowed(text), UTF_8);
    }
    let announced =
        http.charset().or_else(|| meta_charset(body)).and_then(|label| Encoding::for_label(label.as_bytes()));
    let encoding = match announced {
        // Bytes that are invalid in UTF-8 were announced as it by mistake, or are damaged in few places.
        Some(encoding) if encoding == UTF_8 && !mostly_utf8(body) => detect(body),
        Some(encoding) => encoding,
        None => detect(body),
    };
    (encoding.decode_without_bom_handling(body).0, encoding)
}

fn mostly_utf8(body: &[u8]) -> bool {
    let (mut valid, mut invalid) = (0usize, 0usize);
    for chunk in body.utf8_chunks() {
        valid += chunk.valid().bytes().filter(|b| *b >= 0xC2).count();
        invalid += !chunk.invalid().is_empty() as usize;
    }
    valid > invalid * 10
}

fn detect(body: &[u8]) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(&body[..body.len().min(256 << 10)], true);
    let encoding = detector.guess(None, Utf8Detection::Allow);
    if encoding == UTF_8 && std::str::from_utf8(body).is_err() { WINDOWS_1252 } else { encoding }
}

/// The label in `<meta charset=...>` or `<meta http-equiv content="...; charset=...">` or an XML declaration.
fn meta_charset(body: &[u8]) -> Option<&str> {
    let start = &body[..body.len().min(META_WINDOW)];
    for pattern in [&b"charset="[..], b"encoding="] {
        for at in memchr::memmem::find_iter(start, pattern) {
            let rest = &start[at + pattern.len()..];
            let rest = rest.strip_prefix(b"\"").or(rest.strip_prefix(b"'")).unwrap_or(rest);
            let length = rest
                .iter()
                .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':' | b'.'))
                .count();
            if length > 0 {
                return std::str::from_utf8(&rest[..length]).ok();
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(header: &str, body: &[u8]) -> (String, &'static str) {
        let mut block = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n").into_bytes();
        block.extend_from_slice(body);
        let http = parse(&block).unwrap();
        let decoded = http.decoded_body(1 << 20).unwrap();
        assert_eq!(decoded.missing, None);
        let (text, encoding) = decode(&decoded.bytes, &http);
        (text.into_owned(), encoding.name())
    }

    #[test]
    fn the_encoding_is_found_where_it_is_said_and_where_it_is_not() {
        let umlauts = encoding_rs::WINDOWS_1252.encode("Größe und Übermut").0.into_owned();
        assert_eq!(
            page("Content-Type: text/html; charset=iso-8859-1", &umlauts),
            ("Größe und Übermut".into(), "windows-1252")
        );
        let kana = "<meta charset=shift_jis><p>日本語の文章です。</p>";
        let bytes = encoding_rs::SHIFT_JIS.encode(kana).0.into_owned();
        assert_eq!(page("Content-Type: text/html", &bytes), (kana.into(), "Shift_JIS"));
        let russian = "<p>Операционная система Debian распространяется свободно</p>".repeat(4);
        let bytes = encoding_rs::WINDOWS_1251.encode(&russian).0.into_owned();
        assert_eq!(page("Content-Type: text/html", &bytes), (russian, "windows-1251"));
        assert_eq!(
            page("Content-Type: text/html; charset=iso-8859-1", "größer – ja".as_bytes()).0,
            "größer – ja",
            "the header lies"
        );
        let mut utf16 = vec![0xFF, 0xFE];
        utf16.extend("<p>été</p>".encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(page("Content-Type: text/html", &utf16).0, "<p>été</p>");
        assert!(!is_binary(&utf16) && is_binary(b"\x89PNG\r\n\x1a\n") && !is_binary(b"<html>"));
    }

    #[test]
    fn chunks_are_joined_and_a_wrong_header_is_harmless() {
        assert_eq!(
            page("Transfer-Encoding: chunked", b"4\r\n<p>a\r\n5\r\nb</p>\r\n0\r\n\r\n").0,
            "<p>ab</p>"
        );
        assert_eq!(page("Transfer-Encoding: chunked", b"<p>plain</p>").0, "<p>plain</p>");
        assert_eq!(page("Content-Encoding: gzip", b"<p>plain</p>").0, "<p>plain</p>");
    }
}
