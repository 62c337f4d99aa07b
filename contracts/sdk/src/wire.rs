//! The encoding between contract and host: big-endian, strings with u16 and bytes with u32 lengths.
//!
//! The host writes it right, so a short buffer is the host's fault and ends the call.

use alloc::string::String;
use alloc::vec::Vec;

use crate::args::Args;

pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn raw(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    pub fn count(&mut self) -> usize {
        let bytes = self.raw(4);
        u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize
    }

    pub fn bytes(&mut self) -> &'a [u8] {
        let len = self.count();
        self.raw(len)
    }

    pub fn string(&mut self) -> String {
        let len = self.raw(2);
        let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
        String::from_utf8_lossy(self.raw(len)).into_owned()
    }
}

pub fn input(bytes: &[u8]) -> (String, Args) {
    let mut r = Reader(bytes);
    let function = r.string();
    let count = r.count();
    let args = (0..count).map(|_| r.bytes().to_vec()).collect();
    (function, Args::new(args))
}

pub fn entries(bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut r = Reader(bytes);
    let count = r.count();
    (0..count).map(|_| (r.bytes().to_vec(), r.bytes().to_vec())).collect()
}

pub fn call(contract: &str, function: &str, args: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in [contract, function] {
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(&(args.len() as u32).to_be_bytes());
    for arg in args {
        out.extend_from_slice(&(arg.len() as u32).to_be_bytes());
        out.extend_from_slice(arg);
    }
    out
}
