//! The crypto instructions of IBM Z (CPACF), function by function.
//!
//! Each instruction has a query that returns 128 bits: bit n from the left is function n. libcrypto
//! asks them all at start and reports them as text, `OPENSSL_s390xcap=stfle:...:kimd:0x...:0x...`
//! (OpenSSL 3, `OPENSSL_CPU_INFO`): one call tells what it will really use, masks that the operator
//! set included. Facility bits are no substitute: emulators set them while the functions are
//! absent, and an instruction with an absent function kills the process. Function codes:
//! z/Architecture Principles of Operation, SA22-7832, chapters 7 and 26.

/// Functions offered, by instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpacf {
    kimd: u128,
    kma: u128,
    prno: u128,
    kdsa: u128,
}

impl Cpacf {
    /// Reads libcrypto's text; `None` where it is not of this architecture.
    pub fn parse(info: &str) -> Option<Self> {
        let (_, list) = info.split_once("OPENSSL_s390xcap=")?;
        let words: Vec<&str> = list.split_whitespace().next()?.split(':').collect();
        let mask = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            let word = |place: usize| {
                let digits = words.get(place)?.strip_prefix("0x")?;
                u64::from_str_radix(digits, 16).ok()
            };
            Some(u128::from(word(at + 1)?) << 64 | u128::from(word(at + 2)?))
        };
        // An old libcrypto does not name the newest instructions: then it does not use them.
        let read = |name| mask(name).unwrap_or(0);
        Some(Self { kimd: mask("kimd")?, kma: read("kma"), prno: read("prno"), kdsa: read("kdsa") })
    }

    /// SHA-256.
    pub fn sha256(&self) -> bool {
        offers(self.kimd, SHA_256)
    }

    /// SHA-512.
    pub fn sha512(&self) -> bool {
        offers(self.kimd, SHA_512)
    }

    /// AES-GCM with 128 and 256 bits in one instruction.
    pub fn aes_gcm(&self) -> bool {
        offers(self.kma, AES_128) && offers(self.kma, AES_256)
    }

    /// ECDSA on P-256, sign and verify.
    pub fn ecdsa_p256(&self) -> bool {
        offers(self.kdsa, VERIFY_P256) && offers(self.kdsa, SIGN_P256)
    }

    /// Ed25519, sign and verify.
    pub fn ed25519(&self) -> bool {
        offers(self.kdsa, VERIFY_ED25519) && offers(self.kdsa, SIGN_ED25519)
    }

    /// True random numbers.
    pub fn random(&self) -> bool {
        offers(self.prno, TRNG)
    }

    /// Names of what is offered, for people.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            (self.sha256(), "SHA-256"),
            (self.sha512(), "SHA-512"),
            (self.aes_gcm(), "AES-GCM"),
            (self.ecdsa_p256(), "ECDSA P-256"),
            (self.ed25519(), "Ed25519"),
            (self.random(), "random numbers"),
        ];
        all.iter().filter(|(offered, _)| *offered).map(|(_, name)| *name).collect()
    }
}

fn offers(mask: u128, function: u32) -> bool {
    mask >> (127 - function) & 1 == 1
}

const SHA_256: u32 = 2;
const SHA_512: u32 = 3;
const AES_128: u32 = 18;
const AES_256: u32 = 20;
const VERIFY_P256: u32 = 1;
const SIGN_P256: u32 = 9;
const VERIFY_ED25519: u32 = 32;
const SIGN_ED25519: u32 = 40;
const TRNG: u32 = 114;

/// As libcrypto writes it on a machine with every function named here; composed from the function
/// codes, not recorded.
#[cfg(test)]
pub const Z16: &str = "OPENSSL_s390xcap=stfle:0xfbfffffbfcfc7840:0x1:0x0:0x0:\
    kimd:0xf000000000000000:0x0:klmd:0xf000000000000000:0x0:km:0xf070380000000000:0x0:\
    prno:0x9000000000000000:0x0000000000002000:kma:0x8000380000000000:0x0:\
    kdsa:0xf070000088880000:0x0";

/// Under QEMU 10 without hardware (`-cpu max`): SHA-512 and random numbers only, as was seen there.
#[cfg(test)]
pub const EMULATED: &str = "OPENSSL_s390xcap=stfle:0xfbfffffbfcfc7840:0x1:0x0:0x0:\
    kimd:0x9000000000000000:0x0:klmd:0x9000000000000000:0x0:\
    prno:0x8000000000000000:0x0000000000002000:kma:0x8000000000000000:0x0:\
    kdsa:0x8000000000000000:0x0";

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions are told one by one.
    #[test]
    fn functions_are_read_from_the_query_masks() {
        let z16 = Cpacf::parse(Z16).unwrap();
        assert_eq!(z16.names().len(), 6, "{:?}", z16.names());
        let emulated = Cpacf::parse(EMULATED).unwrap();
        assert_eq!(emulated.names(), ["SHA-512", "random numbers"]);
    }

    /// Other architectures and nonsense are not of IBM Z; an older libcrypto names fewer
    /// instructions.
    #[test]
    fn other_texts_claim_nothing() {
        for text in ["", "OPENSSL_ia32cap=0xfffa", "OPENSSL_s390xcap=", "OPENSSL_s390xcap=kimd:0x"]
        {
            assert_eq!(Cpacf::parse(text), None, "{text}");
        }
        let old = Cpacf::parse("OPENSSL_s390xcap=kimd:0xe000000000000000:0x0").unwrap();
        assert!(old.sha256() && !old.ecdsa_p256());
    }
}
