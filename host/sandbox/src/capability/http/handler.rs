//! `wasi:http` for guests.

use crate::instance::Guest;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::LinkOptions;
use wasmtime_wasi_http::p2::bindings::http::outgoing_handler::Host as _;
use wasmtime_wasi_http::p2::bindings::http::types::{self, ErrorCode, Host as _, RequestOptions};
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _};

/// The version of the standard that `wasmtime-wasi-http` has. Guests may import an older one.
const HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";

/// A guest passes these to `handle`: a request, and perhaps its options.
type HandleParams = (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>);

/// Offers `wasi:http/types` and `wasi:http/outgoing-handler` to guests.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, WasiHttp>(linker, &LinkOptions::default().into(), Guest::http)?;
    linker.instance(HANDLER)?.func_wrap("handle", |store, params: HandleParams| Ok((handle(store, params)?,)))
}

/// Sends a request. The crate's own function keeps the options of each request in the table of resources, so that a
/// guest that sends many reaches its limit of handles.
fn handle(
    mut store: StoreContextMut<'_, Guest>,
    (request, options): HandleParams,
) -> wasmtime::Result<Result<Resource<HostFutureIncomingResponse>, ErrorCode>> {
    let mut view = store.data_mut().http();
    let place = options.as_ref().map(Resource::rep);
    let response = view.handle(request, options);
    if let Some(place) = place {
        // It is gone already if a newer version of the crate removes it.
        let _ = view.table.delete(Resource::<RequestOptions>::new_own(place));
    }
    match response {
        Ok(response) => Ok(Ok(response)),
        Err(error) => Ok(Err(view.convert_error_code(error)?)),
    }
}
