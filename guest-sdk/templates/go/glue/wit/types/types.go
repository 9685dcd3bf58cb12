// Package wit_types has the types of the contract that Go lacks, under the names that wit-bindgen's Go code uses.
package wit_types

const (
	OptionNone = 0
	OptionSome = 1
	ResultOk   = 0
	ResultErr  = 1
)

// Option is a value or none.
type Option[T any] struct {
	tag   uint8
	value T
}

func None[T any]() Option[T]        { return Option[T]{} }
func Some[T any](value T) Option[T] { return Option[T]{OptionSome, value} }

func (option Option[T]) Tag() uint8   { return option.tag }
func (option Option[T]) IsSome() bool { return option.tag == OptionSome }
func (option Option[T]) IsNone() bool { return option.tag == OptionNone }

func (option Option[T]) Some() T {
	if option.IsNone() {
		panic("Some of a none")
	}
	return option.value
}

func (option Option[T]) SomeOr(otherwise T) T {
	if option.IsNone() {
		return otherwise
	}
	return option.value
}

// Result is a value or an error.
type Result[T, E any] struct {
	tag   uint8
	value T
	err   E
}

func Ok[T, E any](value T) Result[T, E] { return Result[T, E]{value: value} }
func Err[T, E any](err E) Result[T, E]  { return Result[T, E]{tag: ResultErr, err: err} }

func (result Result[T, E]) Tag() uint8  { return result.tag }
func (result Result[T, E]) IsOk() bool  { return result.tag == ResultOk }
func (result Result[T, E]) IsErr() bool { return result.tag == ResultErr }

func (result Result[T, E]) Ok() T {
	if result.IsErr() {
		panic("Ok of an error")
	}
	return result.value
}

func (result Result[T, E]) Err() E {
	if result.IsOk() {
		panic("Err of a value")
	}
	return result.err
}

// Unit is a result without a value.
type Unit struct{}

type Tuple2[A, B any] struct {
	F0 A
	F1 B
}

type Tuple3[A, B, C any] struct {
	F0 A
	F1 B
	F2 C
}
