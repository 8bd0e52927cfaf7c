//go:build !race

package usecase_test

const modelRaced = false
