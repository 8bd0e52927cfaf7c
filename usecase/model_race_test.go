//go:build race

package usecase_test

// modelRaced: the model runs in one goroutine and has nothing to show the race
// detector, which makes it six times slower.
const modelRaced = true
