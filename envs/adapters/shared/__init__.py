"""What several adapters share: conversion of observations, spaces and dtypes, and quiet imports."""
