"""Posts: reading, cleaning, hashtags, images, vocabulary, splits, batches."""
