// Package runtime has what wit-bindgen's Go code calls: memory that the host reads and writes, and handles of resources.
package runtime

import (
	"runtime"
	"unsafe"
)

// started is set when Go's own allocator works. Before that, the WASI adapter asks for its memory, which it keeps.
var (
	started  bool
	early    [32 << 10]uint64
	earlyEnd uintptr
)

func init() { started = true }

// What the host wrote for the running call stays where it is until Unpin.
var pinner runtime.Pinner

// Unpin lets the collector free what the host wrote. Generated code calls it when Go's own values refer to it.
func Unpin() { pinner.Unpin() }

// Allocate returns zeroed memory that stays where it is until the pinner unpins it.
func Allocate(pinner *runtime.Pinner, size, align uintptr) unsafe.Pointer {
	if size == 0 {
		return nil
	}
	// Of 8-byte words, so that every alignment of the contract is met. Without pointers, so that it is not scanned: the
	// generated code pins what it points to.
	memory := unsafe.Pointer(unsafe.SliceData(make([]uint64, (size+7)/8)))
	pinner.Pin(memory)
	return memory
}

// While the host allocates, the component model forbids imports. The collector calls two of them: the wall clock, so it
// must not run then, as it does not while the thread is pinned; and the monotonic clock, for which the adapter answers
// with the time that it read last.

//go:linkname procPin runtime.procPin
func procPin() int

//go:linkname procUnpin runtime.procUnpin
func procUnpin()

//go:wasmimport wasi_snapshot_preview1 adapter_monotonic_clock_set_paused
func pauseClock(paused bool)

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldSize, align, size uintptr) unsafe.Pointer {
	if old != nil || oldSize != 0 {
		panic("the host resizes nothing")
	}
	if !started {
		memory := unsafe.Add(unsafe.Pointer(&early), earlyEnd)
		earlyEnd += (size + 7) &^ 7
		if earlyEnd > unsafe.Sizeof(early) {
			panic("the WASI adapter needs more memory")
		}
		return memory
	}
	procPin()
	pauseClock(true)
	memory := Allocate(&pinner, size, align)
	pauseClock(false)
	procUnpin()
	return memory
}

// Handle is a resource of the host.
type Handle struct{ value int32 }

func MakeHandle(value int32) *Handle { return &Handle{value} }

// Use returns the handle, which remains.
func (handle *Handle) Use() int32 {
	if handle.value == 0 {
		panic("the resource was dropped or given away")
	}
	return handle.value
}

// Take returns the handle, which is given away.
func (handle *Handle) Take() int32 {
	value := handle.Use()
	handle.value = 0
	return value
}

// TakeOrNil returns the handle, which is given away, or 0.
func (handle *Handle) TakeOrNil() int32 {
	value := handle.value
	handle.value = 0
	return value
}

// Set fills an empty handle.
func (handle *Handle) Set(value int32) {
	if value == 0 || handle.value != 0 {
		panic("the resource is there already")
	}
	handle.value = value
}
