//! The three entries of kryoptic's library. The crate `kryoptic` itself cannot be depended upon: it
//! is a C library alone, and cargo installs none.

use kryoptic_lib::fns::general::fn_get_function_list;
use kryoptic_lib::fns::general::fn_get_interface;
use kryoptic_lib::fns::general::fn_get_interface_list;
use kryoptic_lib::pkcs11::*;

/// PKCS #11, all versions.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    fn_get_function_list(list)
}

/// PKCS #11 3.0 and newer.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetInterface(
    name: CK_UTF8CHAR_PTR,
    version: CK_VERSION_PTR,
    interface: CK_INTERFACE_PTR_PTR,
    flags: CK_FLAGS,
) -> CK_RV {
    fn_get_interface(name, version, interface, flags)
}

/// PKCS #11 3.0 and newer.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetInterfaceList(
    interfaces: CK_INTERFACE_PTR,
    count: CK_ULONG_PTR,
) -> CK_RV {
    fn_get_interface_list(interfaces, count)
}
