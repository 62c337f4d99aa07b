//! A package before it is compiled: validated, held to limits, given a counter of call depth.
//!
//! All refusals are made here, by the pinned `wasmparser` and our own rules, so their words are the
//! same on every validator whatever compiles the code afterwards.
//!
//! **Depth of calls.** How deep calls may nest would depend on the size of native stack frames,
//! which differ between processors and compilers. So each function is rewritten to count what it
//! holds:
//!
//! ```text
//! depth += weight; if depth > STACK_WEIGHT_MAX then trap
//! block (result) <the function's body, `return` made a branch to this block's end> end
//! depth -= weight
//! ```
//!
//! A branch to the function's own label now names the new block, so only `return` changes. The
//! weight is a base plus 16 bytes for each parameter, local and operand held at one time, so the
//! native stack (three times the counted one) is not reached first. The method is that of other
//! chains' WebAssembly hosts (Parity's wasm-instrument, "stack_limiter").

use bytes::Bytes;
use wasmparser::ExternalKind;
use wasmparser::FuncToValidate;
use wasmparser::FuncValidatorAllocations;
use wasmparser::FunctionBody;
use wasmparser::Operator;
use wasmparser::OperatorsReader;
use wasmparser::Parser;
use wasmparser::Payload;
use wasmparser::TypeRef;
use wasmparser::ValType;
use wasmparser::ValidPayload;
use wasmparser::Validator;
use wasmparser::ValidatorResources;
use wasmparser::WasmFeatures;

use crate::chaincode::Fault;
use crate::chaincode::builtin;
use crate::chaincode::wasm::host;
use crate::types::limits;

/// Export: the contract's linear memory.
pub const MEMORY: &str = "memory";
/// Export: runs the function that `input` names; takes and returns nothing.
pub const INVOKE: &str = "obelisk_invoke";
/// Optional export: runs at deployment; takes and returns nothing.
pub const INIT: &str = "obelisk_init";

/// Counted bytes of nested calls at which a contract traps.
const STACK_WEIGHT_MAX: u32 = 64 * 1024;
/// Counted bytes of a call that holds nothing: return address, saved registers, spills.
const FRAME_WEIGHT: u32 = 128;
/// Counted bytes of each value held.
const VALUE_WEIGHT: u32 = 16;
/// Bytes of one page of linear memory.
const PAGE_BYTES: u64 = 64 * 1024;
/// Bytes of one function: what compilers do with a function can grow faster than its length.
const FUNCTION_BYTES_MAX: usize = 128 * 1024;
/// Functions, types, globals, data and element segments of one module.
const FUNCTIONS_MAX: u32 = 10_000;
const TYPES_MAX: u32 = 1_000;
const GLOBALS_MAX: u32 = 1_000;
const SEGMENTS_MAX: u32 = 1_000;

/// Section numbers of the binary format.
const SECTION_GLOBAL: u8 = 6;
const SECTION_CODE: u8 = 10;

/// A module that may be compiled.
pub struct Prepared {
    /// The rewritten module.
    pub bytes: Vec<u8>,
    /// Pages of memory at the start.
    pub memory_pages: usize,
}

/// WebAssembly features that contracts may use: those whose results are the same everywhere.
pub fn features() -> WasmFeatures {
    WasmFeatures::LIME1.difference(WasmFeatures::GC_TYPES)
}

/// Validates a package and rewrites it; the fault says what is wrong and how to build it right.
pub fn prepare(package: &Bytes) -> Result<Prepared, Fault> {
    if package.len() > limits::PACKAGE_BYTES_MAX {
        return Err(builtin::refused(format!(
            "the module has {} bytes, the limit is {}",
            package.len(),
            limits::PACKAGE_BYTES_MAX
        )));
    }
    if !package.starts_with(b"\0asm") {
        return Err(builtin::refused("not a WebAssembly binary: it must begin with \"\\0asm\""));
    }
    let mut scan = Scan::new(package);
    let mut validator = Validator::new_with_features(features());
    let mut functions = FuncValidatorAllocations::default();
    for payload in Parser::new(0).parse_all(package) {
        let payload = payload.map_err(invalid)?;
        match validator.payload(&payload).map_err(invalid)? {
            ValidPayload::Func(function, body) => {
                functions = scan.function(function, &body, functions)?;
            }
            ValidPayload::Ok | ValidPayload::Parser(_) | ValidPayload::End(_) => {}
        }
        scan.section(&payload)?;
    }
    scan.finish()
}

/// What is known of a module while its sections pass by.
struct Scan<'a> {
    source: &'a [u8],
    out: Vec<u8>,
    types: Vec<wasmparser::FuncType>,
    imported_functions: u32,
    globals: u32,
    global_section_done: bool,
    memory_pages: Option<u64>,
    /// Type of each function, imported ones first.
    functions: Vec<u32>,
    exports: Vec<(String, ExternalKind, u32)>,
    bodies: Vec<Vec<u8>>,
    body_count: u32,
}

impl<'a> Scan<'a> {
    fn new(source: &'a [u8]) -> Self {
        Self {
            source,
            out: b"\0asm\x01\0\0\0".to_vec(),
            types: Vec::new(),
            imported_functions: 0,
            globals: 0,
            global_section_done: false,
            memory_pages: None,
            functions: Vec::new(),
            exports: Vec::new(),
            bodies: Vec::new(),
            body_count: 0,
        }
    }

    /// Checks one section and copies it, in its place, into the rewritten module.
    fn section(&mut self, payload: &Payload<'_>) -> Result<(), Fault> {
        match payload {
            Payload::Version { .. } | Payload::End(_) | Payload::CustomSection(_) => return Ok(()),
            Payload::CodeSectionEntry(_) => return self.code_entry(),
            Payload::CodeSectionStart { count, .. } => {
                self.counter();
                self.body_count = *count;
                return Ok(());
            }
            Payload::StartSection { .. } => {
                return Err(builtin::refused(
                    "the module has a start function; move its work into obelisk_init",
                ));
            }
            Payload::TypeSection(reader) => {
                at_most("types", reader.count(), TYPES_MAX)?;
                for group in reader.clone() {
                    for ty in group.map_err(invalid)?.into_types() {
                        self.types.push(ty.unwrap_func().clone());
                    }
                }
            }
            Payload::ImportSection(reader) => self.imports(reader)?,
            Payload::FunctionSection(reader) => {
                at_most("functions", reader.count(), FUNCTIONS_MAX)?;
                for ty in reader.clone() {
                    self.functions.push(ty.map_err(invalid)?);
                }
            }
            Payload::TableSection(reader) => tables(reader)?,
            Payload::MemorySection(reader) => {
                for memory in reader.clone() {
                    self.memory_pages = Some(memory.map_err(invalid)?.initial);
                }
            }
            Payload::GlobalSection(reader) => {
                at_most("globals", reader.count(), GLOBALS_MAX)?;
                self.globals = reader.count();
                return self.globals_with_counter(reader);
            }
            Payload::ExportSection(reader) => {
                for export in reader.clone() {
                    let export = export.map_err(invalid)?;
                    self.exports.push((export.name.to_owned(), export.kind, export.index));
                }
            }
            Payload::ElementSection(reader) => at_most("segments", reader.count(), SEGMENTS_MAX)?,
            Payload::DataSection(reader) => at_most("segments", reader.count(), SEGMENTS_MAX)?,
            Payload::DataCountSection { .. } => {}
            _ => return Err(builtin::refused("the module has a section of an unknown kind")),
        }
        self.copy(payload);
        Ok(())
    }

    fn imports(&mut self, reader: &wasmparser::ImportSectionReader<'_>) -> Result<(), Fault> {
        for import in reader.clone().into_imports() {
            let import = import.map_err(invalid)?;
            let named = format!("{:?} {:?}", import.module, import.name);
            let TypeRef::Func(ty) = import.ty else {
                return Err(builtin::refused(format!("import {named}: only functions exist")));
            };
            let row = host::FUNCTIONS
                .iter()
                .find(|(name, ..)| import.module == host::MODULE && import.name == *name);
            let Some((_, parameters, results)) = row else {
                return Err(builtin::refused(format!(
                    "import {named}: the host has no such function; contracts get no clock, files, \
                     randomness or network, see docs/contracts.md for what there is"
                )));
            };
            let found =
                self.types.get(ty as usize).map(|ty| (letters(ty.params()), letters(ty.results())));
            if found != Some(((*parameters).to_owned(), (*results).to_owned())) {
                return Err(builtin::refused(format!(
                    "import {named}: expected type ({parameters}) -> ({results}), i = i32, I = i64"
                )));
            }
            self.functions.push(ty);
            self.imported_functions += 1;
        }
        Ok(())
    }

    /// The global section with one more: the counter of depth.
    fn globals_with_counter(
        &mut self,
        reader: &wasmparser::GlobalSectionReader<'_>,
    ) -> Result<(), Fault> {
        // The counter goes last, so that no other global changes its number.
        let mut section = Vec::new();
        leb(&mut section, self.globals + 1);
        let mut start = None;
        for global in reader.clone().into_iter_with_offsets() {
            let (offset, _) = global.map_err(invalid)?;
            start.get_or_insert(offset);
        }
        if let Some(start) = start {
            section.extend_from_slice(&self.source[start..reader.range().end]);
        }
        section.extend_from_slice(COUNTER);
        self.append(SECTION_GLOBAL, &section);
        self.global_section_done = true;
        Ok(())
    }

    /// Validates a function, weighs it, and rewrites it.
    fn function(
        &mut self,
        function: FuncToValidate<ValidatorResources>,
        body: &FunctionBody<'_>,
        allocations: FuncValidatorAllocations,
    ) -> Result<FuncValidatorAllocations, Fault> {
        if body.range().len() > FUNCTION_BYTES_MAX {
            return Err(builtin::refused(format!(
                "a function has {} bytes, the limit is {FUNCTION_BYTES_MAX}; divide it",
                body.range().len()
            )));
        }
        let ty = self.functions[function.index as usize];
        let ty = self.types[ty as usize].clone();
        let mut validator = function.into_validator(allocations);
        let mut reader = body.get_binary_reader();
        validator.read_locals(&mut reader).map_err(invalid)?;
        let locals_end = reader.original_position();
        let mut reader = OperatorsReader::new(reader);
        let mut returns = Vec::new();
        let (mut blocks, mut height) = (0_u32, 0_u32);
        while !reader.eof() {
            let at = reader.original_position();
            let operator = reader.read().map_err(invalid)?;
            validator.op(at, &operator).map_err(invalid)?;
            height = height.max(validator.operand_stack_height());
            match operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => blocks += 1,
                Operator::End => blocks = blocks.saturating_sub(1),
                Operator::Return => returns.push((at, blocks)),
                _ => {}
            }
        }
        reader.finish().map_err(invalid)?;
        let held = validator.len_locals().saturating_add(height);
        let weight = FRAME_WEIGHT.saturating_add(held.saturating_mul(VALUE_WEIGHT));
        let rewritten = self.rewrite(body, locals_end, &returns, weight, ty.results())?;
        self.bodies.push(rewritten);
        Ok(validator.into_allocations())
    }

    fn rewrite(
        &self,
        body: &FunctionBody<'_>,
        locals_end: usize,
        returns: &[(usize, u32)],
        weight: u32,
        results: &[ValType],
    ) -> Result<Vec<u8>, Fault> {
        let range = body.range();
        let block = match results {
            [] => BLOCK_EMPTY,
            [ValType::I32] => 0x7F,
            [ValType::I64] => 0x7E,
            [ValType::F32] => 0x7D,
            [ValType::F64] => 0x7C,
            _ => return Err(builtin::refused("a function has several results; return one")),
        };
        let weight = weight.min(STACK_WEIGHT_MAX + 1);
        let mut out = self.source[range.start..locals_end].to_vec();
        self.add_to_depth(&mut out, weight as i32);
        out.push(op::GLOBAL_GET);
        leb(&mut out, self.globals);
        out.push(op::I32_CONST);
        signed_leb(&mut out, STACK_WEIGHT_MAX as i32);
        out.extend_from_slice(&[op::I32_GT_U, op::IF, BLOCK_EMPTY, op::UNREACHABLE, op::END]);
        out.extend_from_slice(&[op::BLOCK, block]);
        let mut from = locals_end;
        for (at, blocks) in returns {
            out.extend_from_slice(&self.source[from..*at]);
            out.push(op::BR);
            leb(&mut out, *blocks);
            from = at + 1;
        }
        // Ends with the body's own `end`, which now closes the block.
        out.extend_from_slice(&self.source[from..range.end]);
        self.add_to_depth(&mut out, -(weight as i32));
        out.push(op::END);
        Ok(out)
    }

    fn add_to_depth(&self, out: &mut Vec<u8>, weight: i32) {
        out.push(op::GLOBAL_GET);
        leb(out, self.globals);
        out.push(op::I32_CONST);
        signed_leb(out, weight);
        out.push(op::I32_ADD);
        out.push(op::GLOBAL_SET);
        leb(out, self.globals);
    }

    /// Writes the code section once its last function was rewritten.
    fn code_entry(&mut self) -> Result<(), Fault> {
        if self.bodies.len() as u64 != u64::from(self.body_count) {
            return Ok(());
        }
        let mut section = Vec::new();
        leb(&mut section, self.body_count);
        for body in std::mem::take(&mut self.bodies) {
            leb(&mut section, length(&body)?);
            section.extend_from_slice(&body);
        }
        self.append(SECTION_CODE, &section);
        Ok(())
    }

    fn copy(&mut self, payload: &Payload<'_>) {
        if let Some((id, range)) = payload.as_section() {
            // Globals stand before these sections; a module without any gets the counter here.
            if matches!(id, 7 | 9 | 12) {
                self.counter();
            }
            let source = self.source;
            self.append(id, &source[range]);
        }
    }

    fn counter(&mut self) {
        if !self.global_section_done {
            self.append(SECTION_GLOBAL, &[&[1], COUNTER].concat());
            self.global_section_done = true;
        }
    }

    fn append(&mut self, id: u8, section: &[u8]) {
        self.out.push(id);
        // A section is at most the package plus some 60 bytes for each function.
        leb(&mut self.out, u32::try_from(section.len()).expect("sections are below 4 GiB"));
        self.out.extend_from_slice(section);
    }

    fn finish(self) -> Result<Prepared, Fault> {
        let pages = self.memory_pages.ok_or_else(|| {
            builtin::refused("the module has no memory; build it as a cdylib for wasm32")
        })?;
        if pages.saturating_mul(PAGE_BYTES) > limits::WASM_MEMORY_BYTES_MAX as u64 {
            return Err(builtin::refused(format!(
                "the module asks for {pages} pages of memory at its start, the limit is {}",
                limits::WASM_MEMORY_BYTES_MAX as u64 / PAGE_BYTES
            )));
        }
        self.require(MEMORY, ExternalKind::Memory)?;
        self.require(INVOKE, ExternalKind::Func)?;
        if self.exports.iter().any(|(name, ..)| name == INIT) {
            self.require(INIT, ExternalKind::Func)?;
        }
        Ok(Prepared { bytes: self.out, memory_pages: pages as usize })
    }

    fn require(&self, name: &str, kind: ExternalKind) -> Result<(), Fault> {
        let Some((_, found, index)) = self.exports.iter().find(|(known, ..)| known == name) else {
            return Err(builtin::refused(format!(
                "the module does not export {name:?}; build it with the contract SDK's macro"
            )));
        };
        let plain = |ty: &u32| {
            let ty = &self.types[*ty as usize];
            ty.params().is_empty() && ty.results().is_empty()
        };
        let right_type =
            kind != ExternalKind::Func || self.functions.get(*index as usize).is_some_and(plain);
        match *found == kind && right_type {
            true => Ok(()),
            false => Err(builtin::refused(format!(
                "the export {name:?} must be a {}",
                if kind == ExternalKind::Func { "function () -> ()" } else { "memory" }
            ))),
        }
    }
}

/// A mutable i32 global that starts at 0.
const COUNTER: &[u8] = &[0x7F, 0x01, op::I32_CONST, 0x00, op::END];
/// Type of a block without a result.
const BLOCK_EMPTY: u8 = 0x40;

/// Instructions of the binary format.
mod op {
    pub const UNREACHABLE: u8 = 0x00;
    pub const BLOCK: u8 = 0x02;
    pub const IF: u8 = 0x04;
    pub const END: u8 = 0x0B;
    pub const BR: u8 = 0x0C;
    pub const GLOBAL_GET: u8 = 0x23;
    pub const GLOBAL_SET: u8 = 0x24;
    pub const I32_CONST: u8 = 0x41;
    pub const I32_GT_U: u8 = 0x4B;
    pub const I32_ADD: u8 = 0x6A;
}

fn tables(reader: &wasmparser::TableSectionReader<'_>) -> Result<(), Fault> {
    at_most("tables", reader.count(), 1)?;
    for table in reader.clone() {
        let initial = table.map_err(invalid)?.ty.initial;
        if initial > limits::WASM_TABLE_ELEMENTS_MAX as u64 {
            return Err(builtin::refused(format!(
                "the module's table has {initial} elements, the limit is {}",
                limits::WASM_TABLE_ELEMENTS_MAX
            )));
        }
    }
    Ok(())
}

fn letters(types: &[ValType]) -> String {
    let letter = |ty: &ValType| match ty {
        ValType::I32 => 'i',
        ValType::I64 => 'I',
        ValType::F32 => 'f',
        ValType::F64 => 'F',
        _ => '?',
    };
    types.iter().map(letter).collect()
}

fn at_most(what: &str, found: u32, limit: u32) -> Result<(), Fault> {
    if found <= limit {
        return Ok(());
    }
    Err(builtin::refused(format!("the module has {found} {what}, the limit is {limit}")))
}

fn invalid(error: wasmparser::BinaryReaderError) -> Fault {
    builtin::refused(format!(
        "not a valid module of the feature set \"lime1\": {} (at byte {})",
        error.message(),
        error.offset()
    ))
}

fn length(bytes: &[u8]) -> Result<u32, Fault> {
    u32::try_from(bytes.len()).map_err(|_| builtin::refused("a function is too long"))
}

/// Appends an unsigned LEB128 number.
fn leb(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed LEB128 number.
fn signed_leb(out: &mut Vec<u8>, mut value: i32) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        let sign = byte & 0x40 != 0;
        if (value == 0 && !sign) || (value == -1 && sign) {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}
