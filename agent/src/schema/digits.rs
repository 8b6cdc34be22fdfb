//! Digits put together in registers.
//!
//! Reading bytes back that were just stored one by one makes the processor wait until all of them have reached its cache,
//! which takes longer than all else of a short number.

/// The eight digits of a number below 10⁸, the first in the lowest byte.
pub(super) fn eight(n: u32) -> u64 {
    // Two halves of four digits, then four of two, then eight of one; each division is a multiplication.
    let halves = u64::from(n / 10_000) | u64::from(n % 10_000) << 32;
    let hundreds = ((halves * 10_486) >> 20) & 0x7f_0000_007f;
    let pairs = hundreds | (halves - 100 * hundreds) << 16;
    let tens = ((pairs * 103) >> 10) & 0xf_000f_000f_000f;
    (tens | (pairs - 10 * tens) << 8) + 0x3030_3030_3030_3030
}

/// The eight hexadecimal digits of a number, the first in the lowest byte.
pub(super) fn eight_hex(n: u32) -> u64 {
    let mut x = u64::from(n);
    x = (x | x << 16) & 0xffff_0000_ffff;
    x = (x | x << 8) & 0xff_00ff_00ff_00ff;
    x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((x + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (x + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)).swap_bytes()
}

/// `0.` to `255.`, the first byte the lowest, and how long each is.
pub(super) const OCTETS: [(u32, u8); 256] = {
    let mut all = [(0, 0); 256];
    let mut n = 0;
    while n < 256 {
        let (a, b, c) = (b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8);
        let (text, len) = match n {
            0..10 => ([c, b'.', 0, 0], 2),
            10..100 => ([b, c, b'.', 0], 3),
            _ => ([a, b, c, b'.'], 4),
        };
        all[n] = (u32::from_le_bytes(text), len);
        n += 1;
    }
    all
};

/// The nine digits of a number below 10⁹, the first in the lowest byte.
pub(super) fn nine(n: u32) -> u128 {
    u128::from(b'0' + (n / 100_000_000) as u8) | u128::from(eight(n % 100_000_000)) << 8
}

/// The hexadecimal digits of a number and how many they are.
pub(super) fn hex(n: u32) -> (u64, usize) {
    let len = (n | 1).ilog2() as usize / 4 + 1;
    (eight_hex(n) >> (8 * (8 - len)), len)
}

/// A text, its first byte the lowest.
pub(super) const fn text(bytes: &[u8]) -> u128 {
    let (mut all, mut n) = (0, bytes.len());
    while n > 0 {
        n -= 1;
        all = all << 8 | bytes[n] as u128;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_every_length() {
        for n in (0..100_000_000).step_by(997).chain([9_999, 10_000, 10_001, 99_999_999]) {
            assert_eq!(std::str::from_utf8(&eight(n).to_le_bytes()).unwrap(), format!("{n:08}"));
            let big = n.wrapping_mul(0x9e37_79b9);
            assert_eq!(std::str::from_utf8(&eight_hex(big).to_le_bytes()).unwrap(), format!("{big:08x}"));
            let (digits, len) = hex(big >> (n % 32));
            assert_eq!(std::str::from_utf8(&digits.to_le_bytes()[..len]).unwrap(), format!("{:x}", big >> (n % 32)));
        }
        for n in [0, 1, 10_000, 99_999_999, 100_000_000, 123_456_789, 999_999_999] {
            assert_eq!(std::str::from_utf8(&nine(n).to_le_bytes()[..9]).unwrap(), format!("{n:09}"));
        }
        assert_eq!(text(b"ab\"").to_le_bytes()[..4], *b"ab\"\0");
    }
}
